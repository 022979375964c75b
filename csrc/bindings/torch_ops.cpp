// The torch ops of the CPU library, on LibTorch's ABI-stable interface: one build runs under every torch from 2.11 on
// and under every Python. The only C++ file of the CPU library that sees torch. Shapes and dtypes are checked in Python
// (protokern/kernels); here only what would otherwise read or write outside a tensor.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "core.h"
#include "instruction_sets.h"

namespace {

namespace cpu = protokern::cpu;
using namespace protokern::arguments;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool searches_bfloat16() { return cpu::chosen_instructions().bfloat16.lanes > 0; }

cpu::SearchPrecision precision_of(const std::string& precision) {
    if (precision == "fp32") return cpu::SearchPrecision::fp32;
    require(precision == "bf16" && searches_bfloat16(), "precision: must be 'fp32'",
            searches_bfloat16() ? " or 'bf16'" : "", " on the CPU with instruction set ",
            cpu::chosen_instructions().name, "; got '", precision, "'.");
    return cpu::SearchPrecision::bf16;
}

// Torch's own threads; no more of them than `operations` multiply-adds are worth.
cpu::Executor executor(int64_t operations) {
    constexpr int64_t worth_a_thread = 1 << 20;
    const auto run = [](int workers, void (*body)(void*, int64_t), void* context) {
        torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
            for (int64_t worker = begin; worker < end; ++worker) body(context, worker);
        });
    };
    const int64_t threads = torch::stable::get_num_threads();
    return {static_cast<int>(std::min<int64_t>(threads, 1 + operations / worth_a_thread)), run};
}

int64_t positions_of(const cpu::Problem& problem) {
    return (problem.features.size[2] - problem.prototypes.size[2] + 1) *
           (problem.features.size[3] - problem.prototypes.size[3] + 1);
}

// Multiply-adds of all pairs of images and prototypes at one position each.
int64_t pair_operations(const cpu::Problem& problem) {
    const int64_t* p = problem.prototypes.size;
    return problem.features.size[0] * p[0] * p[1] * p[2] * p[3];
}

int64_t map_operations(const cpu::Problem& problem) { return pair_operations(problem) * positions_of(problem); }

// Contiguous (B, P) positions, each inside the grid.
Tensor checked_patch(const Tensor& patch, const cpu::Problem& problem) {
    const int64_t images = problem.features.size[0];
    const int64_t prototypes = problem.prototypes.size[0];
    require(patch.is_cpu() && patch.scalar_type() == ScalarType::Long && patch.dim() == 2 && patch.size(0) == images &&
                patch.size(1) == prototypes,
            "patch: must be an int64 tensor of shape (", images, ", ", prototypes, ") on the CPU.");
    Tensor checked = torch::stable::contiguous(patch);
    if (checked.numel() == 0) return checked;
    const int64_t positions = positions_of(problem);
    const int64_t* values = checked.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < checked.numel(); ++i)
        require(values[i] >= 0 && values[i] < positions, "patch: must be in [0, ", positions, "); got ", values[i],
                ".");
    return checked;
}

std::tuple<Tensor, Tensor, Tensor> pool(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                                        cpu::Activation activation, double epsilon, const std::string& precision) {
    cpu::Problem problem = problem_of(features, prototypes, metric);
    problem.precision = precision_of(precision);
    const int64_t images = problem.features.size[0];
    const int64_t count = problem.prototypes.size[0];
    Tensor value = empty_like_values(features, {images, count});
    Tensor similarity = activation == cpu::Activation::none ? value : empty_like_values(features, {images, count});
    const std::vector<int64_t> sizes{images, count};
    Tensor patch = torch::stable::new_empty(features, {sizes.data(), sizes.size()}, ScalarType::Long);
    cpu::min_distance(problem,
                      {value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>(), similarity.mutable_data_ptr(),
                       activation, epsilon},
                      executor(map_operations(problem)));
    return {similarity, value, patch};
}

std::tuple<Tensor, Tensor> min_distance(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                                        const std::string& precision) {
    auto [unused, value, patch] = pool(features, prototypes, metric, cpu::Activation::none, 0.0, precision);
    return {value, patch};
}

std::tuple<Tensor, Tensor, Tensor> prototype_pool(const Tensor& features, const Tensor& prototypes,
                                                  const std::string& metric, const std::string& activation,
                                                  double epsilon, const std::string& precision) {
    return pool(features, prototypes, metric, activation_of(activation), epsilon, precision);
}

std::tuple<Tensor, Tensor> min_distance_backward(const Tensor& grad_value, const Tensor& features,
                                                 const Tensor& prototypes, const Tensor& patch,
                                                 const std::string& metric, bool need_features, bool need_prototypes) {
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    const Tensor positions = checked_patch(patch, problem);
    require(grad_value.is_cpu() && grad_value.scalar_type() == value_dtype(features) && grad_value.dim() == 2 &&
                grad_value.size(0) == patch.size(0) && grad_value.size(1) == patch.size(1),
            "grad_value: must have the shape of patch and the dtype of the distances.");
    const Tensor grad = torch::stable::contiguous(grad_value);
    Gradients gradients(features, prototypes, need_features, need_prototypes);
    if (gradients.output.features || gradients.output.prototypes)
        cpu::min_distance_backward(problem, positions.numel() > 0 ? positions.const_data_ptr<int64_t>() : nullptr,
                                   grad.const_data_ptr(), gradients.output, executor(4 * pair_operations(problem)));
    return {gradients.features, gradients.prototypes};
}

Tensor distance_map(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    Tensor distance = empty_like_values(features, {x[0], p[0], x[2] - p[2] + 1, x[3] - p[3] + 1});
    cpu::distance_map(problem, distance.mutable_data_ptr(), executor(map_operations(problem)));
    return distance;
}

Tensor distance_at(const Tensor& features, const Tensor& prototypes, const Tensor& patch, const std::string& metric) {
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    const Tensor positions = checked_patch(patch, problem);
    Tensor distance = empty_like_values(features, {problem.features.size[0], problem.prototypes.size[0]});
    if (distance.numel() > 0)
        cpu::distance_at(problem, positions.const_data_ptr<int64_t>(), distance.mutable_data_ptr(),
                         executor(pair_operations(problem)));
    return distance;
}

// On the CPU these ops are in full precision, also where a search would take less.
void require_known(const std::string& precision) {
    require(precision == "fp32" || precision == "bf16", "precision: must be 'fp32' or 'bf16' on the CPU; got '",
            precision, "'.");
}

Tensor mean_activation(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                       const std::string& activation, double epsilon, const std::string& precision) {
    require_known(precision);
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    Tensor mean = empty_like_values(features, {problem.features.size[0], problem.prototypes.size[0]});
    cpu::mean_activation(problem, {activation_of(activation), epsilon}, mean.mutable_data_ptr(),
                         executor(map_operations(problem)));
    return mean;
}

std::tuple<Tensor, Tensor> mean_activation_backward(const Tensor& grad, const Tensor& features,
                                                    const Tensor& prototypes, const std::string& metric,
                                                    const std::string& activation, double epsilon, bool need_features,
                                                    bool need_prototypes) {
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    require(grad.is_cpu() && grad.scalar_type() == value_dtype(features) && grad.dim() == 2 &&
                grad.size(0) == problem.features.size[0] && grad.size(1) == problem.prototypes.size[0],
            "grad: must have shape (", problem.features.size[0], ", ", problem.prototypes.size[0],
            ") and the dtype of the distances.");
    const Tensor dense_grad = torch::stable::contiguous(grad);
    Gradients gradients(features, prototypes, need_features, need_prototypes);
    if (gradients.output.features || gradients.output.prototypes)
        cpu::mean_activation_backward(problem, {activation_of(activation), epsilon}, dense_grad.const_data_ptr(),
                                      gradients.output, executor(2 * map_operations(problem)));
    return {gradients.features, gradients.prototypes};
}

std::tuple<Tensor, Tensor> topk_distance(const Tensor& features, const Tensor& prototypes, int64_t k,
                                         const std::string& metric, const std::string& precision) {
    require_known(precision);
    const cpu::Problem problem = problem_of(features, prototypes, metric);
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    const int64_t positions = positions_of(problem);
    require(k >= 1 && k <= positions, "k: must be from 1 to ", positions, ", the patches of the grid; got ", k, ".");
    Tensor value = empty_like_values(features, {x[0], p[0], k});
    const std::vector<int64_t> sizes{x[0], p[0], k};
    Tensor patch = torch::stable::new_empty(features, {sizes.data(), sizes.size()}, ScalarType::Long);
    cpu::topk_distance(problem, k, value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>(),
                       executor(map_operations(problem)));
    return {value, patch};
}

std::string instruction_set() { return cpu::chosen_instructions().name; }

}  // namespace

STABLE_TORCH_LIBRARY(protokern_native, m) {
    m.def(
        "min_distance(Tensor features, Tensor prototypes, str metric, str precision) -> (Tensor value, Tensor patch)");
    m.def(
        "prototype_pool(Tensor features, Tensor prototypes, str metric, str activation, float epsilon, "
        "str precision) -> "
        "(Tensor activation, Tensor value, Tensor patch)");
    m.def(
        "min_distance_backward(Tensor grad_value, Tensor features, Tensor prototypes, Tensor patch, str metric, "
        "bool need_features, bool need_prototypes) -> (Tensor grad_features, Tensor grad_prototypes)");
    m.def("distance_map(Tensor features, Tensor prototypes, str metric) -> Tensor");
    m.def("distance_at(Tensor features, Tensor prototypes, Tensor patch, str metric) -> Tensor");
    m.def(
        "mean_activation(Tensor features, Tensor prototypes, str metric, str activation, float epsilon, "
        "str precision) -> Tensor");
    m.def(
        "mean_activation_backward(Tensor grad, Tensor features, Tensor prototypes, str metric, str activation, "
        "float epsilon, bool need_features, bool need_prototypes) -> (Tensor grad_features, Tensor grad_prototypes)");
    m.def(
        "topk_distance(Tensor features, Tensor prototypes, int k, str metric, str precision) -> "
        "(Tensor value, Tensor patch)");
    m.def("instruction_set() -> str");
    m.def("searches_bfloat16() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CPU, m) {
    m.impl("min_distance", TORCH_BOX(&min_distance));
    m.impl("prototype_pool", TORCH_BOX(&prototype_pool));
    m.impl("min_distance_backward", TORCH_BOX(&min_distance_backward));
    m.impl("distance_map", TORCH_BOX(&distance_map));
    m.impl("distance_at", TORCH_BOX(&distance_at));
    m.impl("mean_activation", TORCH_BOX(&mean_activation));
    m.impl("mean_activation_backward", TORCH_BOX(&mean_activation_backward));
    m.impl("topk_distance", TORCH_BOX(&topk_distance));
}

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CompositeExplicitAutograd, m) {
    m.impl("instruction_set", TORCH_BOX(&instruction_set));
    m.impl("searches_bfloat16", TORCH_BOX(&searches_bfloat16));
}
