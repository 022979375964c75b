// Logarithms and exponentials as a CUDA device computes them, for similarity.h.
#pragma once

#include "device.cuh"
#include "similarity.h"

namespace protokern::cuda {

struct Maths {
    template <typename T>
    __device__ static T log_plus_one(T x) {
        return log1p(x);
    }
    template <typename T>
    __device__ static T exponential(T x) {
        return exp(x);
    }
    template <typename T>
    __device__ static T root(T x) {
        return sqrt(x);
    }
    template <typename T>
    __device__ static T slope_of_log(T distance, T epsilon) {
        return -((T(1) - epsilon) / (distance + T(1))) / (distance + epsilon);
    }
    // NaN stays NaN.
    template <typename T>
    __device__ static T constant(T distance, T value) {
        return distance != distance ? distance : value;
    }
};

}  // namespace protokern::cuda
