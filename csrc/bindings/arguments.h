// Torch's arguments as the cores take them, for the bindings of every device. What is checked here would otherwise read
// or write outside a tensor; shapes and dtypes are checked in Python (protokern/kernels).
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "core.h"

namespace protokern::arguments {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class Place { cpu, cuda };

// Unlike STD_TORCH_CHECK, without the place in this file: the message is for the caller.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
    if (condition) return;
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
}

inline cpu::DType dtype_of(const Tensor& tensor, const char* name) {
    switch (tensor.scalar_type()) {
        case ScalarType::Double:
            return cpu::DType::float64;
        case ScalarType::Float:
            return cpu::DType::float32;
        case ScalarType::BFloat16:
            return cpu::DType::bfloat16;
        case ScalarType::Half:
            return cpu::DType::float16;
        default:
            break;
    }
    require(false, name, ": must be float64, float32, bfloat16 or float16; got another dtype.");
    return cpu::DType::float32;
}

inline ScalarType value_dtype(const Tensor& features) {
    return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// (B, D, H, W) or (P, D, h, w); a (P, D) tensor counts as (P, D, 1, 1).
inline cpu::Array4 array_of(const Tensor& tensor, const char* name, Place place) {
    if (place == Place::cpu) require(tensor.is_cpu(), name, ": must be on the CPU; got another device.");
    if (place == Place::cuda) require(tensor.is_cuda(), name, ": must be on a CUDA device; got another device.");
    cpu::Array4 array{
        tensor.numel() > 0 ? tensor.const_data_ptr() : nullptr, dtype_of(tensor, name), {1, 1, 1, 1}, {0, 0, 0, 0}};
    require(tensor.dim() == 4 || tensor.dim() == 2, name, ": must have 4 (or, for prototypes, 2) dimensions; got ",
            tensor.dim(), ".");
    for (int64_t i = 0; i < tensor.dim(); ++i) {
        array.size[i] = tensor.size(i);
        array.stride[i] = tensor.stride(i);
    }
    return array;
}

// The kind that a table of names has for one.
template <typename Row, size_t size>
auto kind_of(const Row (&rows)[size], const std::string& name, const char* argument) {
    std::string names;
    for (const Row& row : rows) {
        if (name == row.name) return row.kind;
        const bool is_last = &row == std::end(rows) - 1;
        names += std::string(names.empty() ? "" : is_last ? " or " : ", ") + "'" + row.name + "'";
    }
    require(false, argument, ": must be ", names, "; got '", name, "'.");
    return rows[0].kind;
}

inline cpu::Problem problem_of(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                               Place place) {
    const Metric kind = kind_of(metric_names, metric, "metric");
    require(features.dim() == 4, "features: must have shape (B, D, H, W); got ", features.dim(), " dimensions.");
    const cpu::Problem problem{array_of(features, "features", place), array_of(prototypes, "prototypes", place), kind};
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    require(problem.features.dtype == problem.prototypes.dtype,
            "prototypes: must have the dtype of features; got another one.");
    require(x[1] == p[1] && x[1] > 0, "prototypes: must have depth ", x[1], " (more than 0) like features; got ", p[1],
            ".");
    require(p[2] > 0 && p[3] > 0 && p[2] <= x[2] && p[3] <= x[3], "prototypes: patches must fit into the ", x[2], " x ",
            x[3], " grid; got ", p[2], " x ", p[3], ".");
    return problem;
}

inline Activation activation_of(const std::string& name) { return kind_of(activation_names, name, "activation"); }

// Positions of the patch grid.
inline int64_t positions_of(const cpu::Problem& problem) {
    return (problem.features.size[2] - problem.prototypes.size[2] + 1) *
           (problem.features.size[3] - problem.prototypes.size[3] + 1);
}

inline Tensor empty_like_values(const Tensor& features, std::initializer_list<int64_t> size) {
    return torch::stable::new_empty(features, {size.begin(), size.size()}, value_dtype(features));
}

inline Tensor empty_patches(const Tensor& features, std::initializer_list<int64_t> size) {
    return torch::stable::new_empty(features, {size.begin(), size.size()}, ScalarType::Long);
}

// A contiguous (B, P) tensor, or (B, P, m) where there may be `several` entries for a pair.
inline Tensor pairs(const Tensor& tensor, const char* name, ScalarType dtype, const Tensor& features,
                    const Tensor& prototypes, bool several = false) {
    const bool fits = tensor.dim() == 2 || (several && tensor.dim() == 3);
    const bool same_device = tensor.is_cpu() == features.is_cpu() && tensor.is_cuda() == features.is_cuda() &&
                             tensor.get_device_index() == features.get_device_index();
    require(same_device && tensor.scalar_type() == dtype && fits && tensor.size(0) == features.size(0) &&
                tensor.size(1) == prototypes.size(0),
            name, ": must have shape (", features.size(0), ", ", prototypes.size(0), "), the device of features and ",
            dtype == ScalarType::Long ? "dtype int64." : "the dtype of the distances.");
    return torch::stable::contiguous(tensor);
}

// The weights of the patches, (B, H - h + 1, W - w + 1), contiguous, with `problem` pointing at them; or none.
inline std::optional<Tensor> weights_of(const std::optional<Tensor>& patch_weight, const Tensor& features,
                                        cpu::Problem& problem) {
    if (!patch_weight) return std::nullopt;
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    const bool same_device = patch_weight->is_cpu() == features.is_cpu() &&
                             patch_weight->is_cuda() == features.is_cuda() &&
                             patch_weight->get_device_index() == features.get_device_index();
    require(same_device && patch_weight->scalar_type() == value_dtype(features) && patch_weight->dim() == 3 &&
                patch_weight->size(0) == x[0] && patch_weight->size(1) == x[2] - p[2] + 1 &&
                patch_weight->size(2) == x[3] - p[3] + 1,
            "patch_weight: must have shape (", x[0], ", ", x[2] - p[2] + 1, ", ", x[3] - p[3] + 1,
            "), the device of features and the dtype of the distances.");
    Tensor dense = torch::stable::contiguous(*patch_weight);
    problem.patch_weight = dense.numel() > 0 ? dense.const_data_ptr() : nullptr;
    return dense;
}

// Uninitialised gradients, of shape (0,) where they are not needed, and where the core writes them.
struct Gradients {
    Tensor features;
    Tensor prototypes;
    cpu::GradientOutput output{nullptr, {0, 0, 0, 0}, nullptr};

    Gradients(const Tensor& of_features, const Tensor& of_prototypes, bool need_features, bool need_prototypes)
        : features(need_features ? torch::stable::empty_like(of_features) : nothing(of_features)),
          prototypes(need_prototypes ? torch::stable::new_empty(of_prototypes, of_prototypes.sizes())
                                     : nothing(of_prototypes)) {
        if (need_features && features.numel() > 0) {
            output.features = features.mutable_data_ptr();
            for (int i = 0; i < 4; ++i) output.features_stride[i] = features.stride(i);
        }
        if (need_prototypes && prototypes.numel() > 0) output.prototypes = prototypes.mutable_data_ptr();
    }
    bool wanted() const { return output.features || output.prototypes; }
    static Tensor nothing(const Tensor& like) {
        const int64_t zero = 0;
        return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(&zero, 1));
    }
};

}  // namespace protokern::arguments
