// The torch ops of the CUDA library, on LibTorch's ABI-stable interface; the schemas are those that the CPU library
// defines, which is loaded first. The only C++ file of the CUDA library that sees torch. Everything runs on the current
// stream of the tensors' device, and all memory comes from torch's allocator.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "arguments.h"
#include "launch.h"
#include "ops.h"

namespace {

using namespace protokern::arguments;
namespace cuda = protokern::cuda;

cuda::Precision precision_of(const std::string& name) {
    if (name == "fp32") return cuda::Precision::fp32;
    if (name == "tf32") return cuda::Precision::tf32;
    require(name == "bf16", "precision: must be 'fp32', 'tf32' or 'bf16'; got '", name, "'.");
    return cuda::Precision::bf16;
}

cuda::Problem checked_problem(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
    require(features.get_device_index() == prototypes.get_device_index(),
            "prototypes: must be on the device of features; got another one.");
    return problem_of(features, prototypes, metric, Place::cuda);
}

// The CUDA core for Ops. Makes the device of the features current for as long as it lives.
class Core {
  public:
    cuda::Problem problem;
    static constexpr int64_t most_neighbours = cuda::most_neighbours;

    Core(const Tensor& features, const Tensor& prototypes, const std::string& metric,
         const std::optional<Tensor>& weight = std::nullopt)
        : problem(checked_problem(features, prototypes, metric)),
          patch_weight_(weights_of(weight, features, problem)),
          like_(features),
          guard_(features.get_device_index()) {
        void* stream = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(features.get_device_index(), &stream));
        stream_ = static_cast<cudaStream_t>(stream);
        cuda::use_device(features.get_device_index());
    }

    // In ops where difference forms serve all precisions.
    static void check_precision(const std::string& precision) { precision_of(precision); }
    // What is outside the grid cannot be seen from here without waiting for the device; the kernels pass over it.
    void check_positions(const Tensor&) const {}

    void min_distance(const std::string& precision, const cuda::PoolOutput& output) const {
        const cuda::Precision chosen = precision_of(precision);
        const cuda::Device device = cuda::current_device();
        Tensor memory = workspace(cuda::min_distance_workspace(problem, chosen, device));
        cuda::min_distance(problem, chosen, output, memory.mutable_data_ptr(), device, stream_);
    }
    void min_distance_backward(const int64_t* patch, const void* grad, const cuda::GradientOutput& output) const {
        Tensor memory = workspace(cuda::min_distance_backward_workspace(problem, output.features, output.prototypes));
        cuda::min_distance_backward(problem, patch, grad, output, memory.mutable_data_ptr(), stream_);
    }
    void distance_map(void* distance) const {
        Tensor memory = workspace(cuda::distance_map_workspace(problem));
        cuda::distance_map(problem, distance, memory.mutable_data_ptr(), stream_);
    }
    void distance_at(const int64_t* patch, int64_t per_pair, void* distance) const {
        Tensor memory = workspace(cuda::distance_at_workspace(problem));
        cuda::distance_at(problem, patch, per_pair, distance, memory.mutable_data_ptr(), stream_);
    }
    void mean_activation(const cuda::Similarity& similarity, void* mean) const {
        Tensor memory = workspace(cuda::mean_activation_workspace(problem));
        cuda::mean_activation(problem, similarity, mean, memory.mutable_data_ptr(), stream_);
    }
    void mean_activation_backward(const cuda::Similarity& similarity, const void* grad,
                                  const cuda::GradientOutput& output) const {
        Tensor memory =
            workspace(cuda::mean_activation_backward_workspace(problem, output.features, output.prototypes));
        cuda::mean_activation_backward(problem, similarity, grad, output, memory.mutable_data_ptr(), stream_);
    }
    void topk_distance(int64_t k, void* value, int64_t* patch) const {
        Tensor memory = workspace(cuda::topk_distance_workspace(problem));
        cuda::topk_distance(problem, k, value, patch, memory.mutable_data_ptr(), stream_);
    }

  private:
    std::optional<Tensor> patch_weight_;  // whose memory `problem` points at
    const Tensor& like_;
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_ = nullptr;

    // Memory on the device; torch keeps it from others until what is queued on the stream is done.
    Tensor workspace(int64_t bytes) const {
        return torch::stable::new_empty(like_, torch::headeronly::IntHeaderOnlyArrayRef(&bytes, 1), ScalarType::Byte);
    }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CUDA, m) { protokern::bindings::Ops<Core>::implement(m); }
