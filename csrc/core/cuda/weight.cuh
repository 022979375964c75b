// Weights of patches: what a weight does to a distance.
#pragma once

#include "device.cuh"

namespace protokern::cuda {

template <typename T>
__device__ bool is_weight(T weight) {
    return weight >= T(0) && weight <= T(1);
}

// (1 - w) + w d for unit vectors, w d for products, d - log(w) otherwise: a weight of 1 changes no bit. Infinite at
// weight 0, and NaN where the weight is NaN or outside of [0, 1].
template <typename T>
__device__ T weigh(Metric metric, T weight, T distance) {
    if (!is_weight(weight)) return not_a_number<T>();
    if (weight == T(0)) return infinity<T>();
    if (is_product(metric)) return weight * distance;
    if (is_unit(metric)) return (T(1) - weight) + rounded_product(weight, distance);
    return distance - log(weight);
}

}  // namespace protokern::cuda
