// Similarity of a distance, and its derivative.
#pragma once

#include "device.cuh"

namespace protokern::cuda {

template <typename T>
__device__ T activation_of(Activation kind, T epsilon, T distance) {
    switch (kind) {
        case Activation::log:
            // log((d + 1) / (d + epsilon)), written so that it stays exact where the ratio is close to 1.
            return log1p((T(1) - epsilon) / (distance + epsilon));
        case Activation::linear:
            return -distance;
        case Activation::exponential:
            return exp(-distance);
        case Activation::cosine:
            return T(1) - distance;
        default:
            return distance;
    }
}

template <typename T>
__device__ T activation_slope(Activation kind, T epsilon, T distance) {
    switch (kind) {
        case Activation::log:
            return -((T(1) - epsilon) / (distance + T(1))) / (distance + epsilon);
        case Activation::exponential:
            return -exp(-distance);
        default:
            return distance != distance ? distance : T(-1);
    }
}

}  // namespace protokern::cuda
