// The torch ops of the CPU library, on LibTorch's ABI-stable interface: one build runs under every torch from 2.11 on
// and under every Python. The only C++ file of the CPU library that sees torch. Shapes and dtypes are checked in Python
// (protokern/kernels); here only what would otherwise read or write outside a tensor.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "arguments.h"
#include "core.h"
#include "instruction_sets.h"
#include "ops.h"

namespace {

namespace cpu = protokern::cpu;
using namespace protokern::arguments;
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

// The CPU core for Ops, on torch's threads.
struct Core {
    cpu::Problem problem;
    std::optional<Tensor> patch_weight;  // whose memory `problem` points at
    static constexpr int64_t most_neighbours = std::numeric_limits<int64_t>::max();

    Core(const Tensor& features, const Tensor& prototypes, const std::string& metric,
         const std::optional<Tensor>& weight = std::nullopt)
        : problem(problem_of(features, prototypes, metric, Place::cpu)),
          patch_weight(weights_of(weight, features, problem)) {}

    // In ops that are in full precision also where a search would take less.
    static void check_precision(const std::string& precision) {
        require(precision == "fp32" || precision == "bf16", "precision: must be 'fp32' or 'bf16' on the CPU; got '",
                precision, "'.");
    }
    void check_positions(const Tensor& patch) const {
        if (patch.numel() == 0) return;
        const int64_t positions = positions_of(problem);
        const int64_t* values = patch.const_data_ptr<int64_t>();
        for (int64_t i = 0; i < patch.numel(); ++i)
            require(values[i] >= 0 && values[i] < positions, "patch: must be in [0, ", positions, "); got ", values[i],
                    ".");
    }

    // Multiply-adds of all pairs of images and prototypes at one position each.
    int64_t pair_operations() const {
        const int64_t* p = problem.prototypes.size;
        return problem.features.size[0] * p[0] * p[1] * p[2] * p[3];
    }
    int64_t map_operations() const { return pair_operations() * positions_of(problem); }

    void min_distance(const std::string& precision, const cpu::PoolOutput& output) const {
        cpu::Problem searched = problem;
        searched.precision = precision_of(precision);
        cpu::min_distance(searched, output, executor(map_operations()));
    }
    void min_distance_backward(const int64_t* patch, const void* grad, const cpu::GradientOutput& output) const {
        cpu::min_distance_backward(problem, patch, grad, output, executor(4 * pair_operations()));
    }
    void distance_map(void* distance) const { cpu::distance_map(problem, distance, executor(map_operations())); }
    void distance_at(const int64_t* patch, int64_t per_pair, void* distance) const {
        cpu::distance_at(problem, patch, per_pair, distance, executor(per_pair * pair_operations()));
    }
    void mean_activation(const cpu::Similarity& similarity, void* mean) const {
        cpu::mean_activation(problem, similarity, mean, executor(map_operations()));
    }
    void mean_activation_backward(const cpu::Similarity& similarity, const void* grad,
                                  const cpu::GradientOutput& output) const {
        cpu::mean_activation_backward(problem, similarity, grad, output, executor(2 * map_operations()));
    }
    void topk_distance(int64_t k, void* value, int64_t* patch) const {
        cpu::topk_distance(problem, k, value, patch, executor(map_operations()));
    }
};

std::string instruction_set() { return cpu::chosen_instructions().name; }

}  // namespace

STABLE_TORCH_LIBRARY(protokern_native, m) {
    m.def(
        "min_distance(Tensor features, Tensor prototypes, str metric, str precision, Tensor? patch_weight=None) -> "
        "(Tensor value, Tensor patch)");
    m.def(
        "prototype_pool(Tensor features, Tensor prototypes, str metric, str activation, float epsilon, "
        "str precision, Tensor? patch_weight=None) -> "
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
        "topk_distance(Tensor features, Tensor prototypes, int k, str metric, str precision, "
        "Tensor? patch_weight=None) -> "
        "(Tensor value, Tensor patch)");
    m.def("instruction_set() -> str");
    m.def("searches_bfloat16() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CPU, m) { protokern::bindings::Ops<Core>::implement(m); }

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CompositeExplicitAutograd, m) {
    m.impl("instruction_set", TORCH_BOX(&instruction_set));
    m.impl("searches_bfloat16", TORCH_BOX(&searches_bfloat16));
}
