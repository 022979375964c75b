// The CPU core's entry points. Torch-free and Python-free: raw pointers, sizes and strides; the caller owns all memory
// and has checked shapes and dtypes. Thread safe. Results do not depend on the number of workers, to the bit.
//
// Values are double for float64 features, else float. All outputs are contiguous unless they carry strides.
#pragma once

#include <cstdint>

#include "types.h"

namespace protokern::cpu {

// Runs body(context, worker) once for every worker in [0, workers), in parallel where it can, and returns when all are
// done. The body does not throw.
struct Executor {
    int workers;
    void (*run)(int workers, void (*body)(void* context, int64_t worker), void* context);
};

struct Problem {
    Array4 features;    // (B, D, H, W)
    Array4 prototypes;  // (P, D, h, w), h <= H, w <= W; same dtype as the features
    Metric metric;
    SearchPrecision precision =
        SearchPrecision::fp32;           // of the search in min_distance; bf16 only where the instruction set has it
    const void* patch_weight = nullptr;  // (B, N) values in [0, 1], or null: all are 1; for min_distance, topk_distance
};

struct PoolOutput {
    void* value;       // (B, P)
    int64_t* patch;    // (B, P)
    void* activation;  // (B, P), unused with Activation::none
    Activation kind;
    double epsilon;
};

// Gradients take the dtype of the features and of the prototypes; a null pointer means not wanted.
struct GradientOutput {
    void* features;  // strides as given, every element is written
    int64_t features_stride[4];
    void* prototypes;  // contiguous (P, D, h, w)
};

struct Similarity {
    Activation kind;  // not none
    double epsilon;
};

void min_distance(const Problem&, const PoolOutput&, const Executor&);
void distance_at(const Problem&, const int64_t* patch, int64_t per_pair, void* distance,
                 const Executor&);                                   // (B, P, per_pair), as patch
void distance_map(const Problem&, void* distance, const Executor&);  // (B, P, H - h + 1, W - w + 1)
void min_distance_backward(const Problem&, const int64_t* patch, const void* grad_value, const GradientOutput&,
                           const Executor&);
void mean_activation(const Problem&, const Similarity&, void* mean, const Executor&);  // (B, P)
void mean_activation_backward(const Problem&, const Similarity&, const void* grad, const GradientOutput&,
                              const Executor&);
void topk_distance(const Problem&, int64_t k, void* value, int64_t* patch, const Executor&);  // (B, P, k)

}  // namespace protokern::cpu
