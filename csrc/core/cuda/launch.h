// The CUDA core's entry points. Torch-free and Python-free, like the CPU core, whose plain types they take: raw device
// pointers, sizes and strides. The caller has checked shapes and dtypes, has made the device current, owns all memory
// and hands in the workspace, which the function of the same name measures. Everything is queued on `stream`; nothing
// waits for the device. A launch that fails throws std::runtime_error. Thread safe. The same bits on every run.
//
// Values are double for float64 features, else float. All outputs are contiguous unless they carry strides.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core.h"

namespace protokern::cuda {

using cpu::Array4;
using cpu::DType;
using cpu::GradientOutput;
using cpu::Metric;
using cpu::PoolOutput;
using cpu::Problem;
using cpu::Similarity;

// One of unit vectors, one of centred ones, one of products: see metric.h.
static_assert(sizeof(metric_names) / sizeof(MetricName) == 3, "the kernels tell them apart by is_unit and is_centred");

// How the search multiplies; float64 is always searched in float64. `fp32` adds three tf32 products per pair of values.
enum class Precision { fp32, tf32, bf16 };

struct Device {
    int multiprocessors;
    int shared_memory;  // bytes that one block can ask for
    int capability;     // 10 * major + minor
};

// Makes a device current for this library's own copy of the CUDA runtime, as the caller's copy has it already.
void use_device(int index);
Device current_device();

int64_t min_distance_workspace(const Problem&, Precision, const Device&);
void min_distance(const Problem&, Precision, const PoolOutput&, void* workspace, const Device&, cudaStream_t stream);

int64_t min_distance_backward_workspace(const Problem&, bool features, bool prototypes);
void min_distance_backward(const Problem&, const int64_t* patch, const void* grad_value, const GradientOutput&,
                           void* workspace, cudaStream_t stream);

int64_t distance_at_workspace(const Problem&);
void distance_at(const Problem&, const int64_t* patch, int64_t per_pair, void* distance, void* workspace,
                 cudaStream_t stream);  // (B, P, per_pair), as patch

int64_t distance_map_workspace(const Problem&);
void distance_map(const Problem&, void* distance, void* workspace, cudaStream_t stream);

constexpr int most_neighbours = 8;  // largest k

int64_t topk_distance_workspace(const Problem&);
void topk_distance(const Problem&, int64_t k, void* value, int64_t* patch, void* workspace, cudaStream_t stream);

int64_t mean_activation_workspace(const Problem&);
void mean_activation(const Problem&, const Similarity&, void* mean, void* workspace, cudaStream_t stream);

int64_t mean_activation_backward_workspace(const Problem&, bool features, bool prototypes);
void mean_activation_backward(const Problem&, const Similarity&, const void* grad, const GradientOutput&,
                              void* workspace, cudaStream_t stream);

}  // namespace protokern::cuda
