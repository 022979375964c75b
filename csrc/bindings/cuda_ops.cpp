// The torch ops of the CUDA library, on LibTorch's ABI-stable interface; the schemas are those that the CPU library
// defines, which is loaded first. The only C++ file of the CUDA library that sees torch. Everything runs on the current
// stream of the tensors' device, and all memory comes from torch's allocator.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "launch.h"

namespace {

using namespace protokern::arguments;
namespace cuda = protokern::cuda;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the device of a tensor current for as long as it lives.
class Context {
  public:
    explicit Context(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
        void* stream = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
        stream_ = static_cast<cudaStream_t>(stream);
        cuda::use_device(index_);
    }
    cudaStream_t stream() const { return stream_; }

    // Memory on the device; torch keeps it from others until what is queued on the stream is done.
    static Tensor workspace(const Tensor& like, int64_t bytes) {
        const std::vector<int64_t> size{bytes};
        return torch::stable::new_empty(like, {size.data(), size.size()}, ScalarType::Byte);
    }

  private:
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_ = nullptr;
};

protokern::cpu::Problem problem_of(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
    require(features.get_device_index() == prototypes.get_device_index(),
            "prototypes: must be on the device of features; got another one.");
    return protokern::arguments::problem_of(features, prototypes, metric, Place::cuda);
}

cuda::Precision precision_of(const std::string& name) {
    if (name == "fp32") return cuda::Precision::fp32;
    if (name == "tf32") return cuda::Precision::tf32;
    require(name == "bf16", "precision: must be 'fp32', 'tf32' or 'bf16'; got '", name, "'.");
    return cuda::Precision::bf16;
}

// A contiguous (B, P) tensor. Positions outside the grid cannot be seen from here without waiting for the device; the
// kernels pass over them.
Tensor pairs(const Tensor& tensor, const char* name, ScalarType dtype, const Tensor& features,
             const Tensor& prototypes) {
    require(tensor.is_cuda() && tensor.get_device_index() == features.get_device_index() &&
                tensor.scalar_type() == dtype && tensor.dim() == 2 && tensor.size(0) == features.size(0) &&
                tensor.size(1) == prototypes.size(0),
            name, ": must have shape (", features.size(0), ", ", prototypes.size(0), "), the device of features and ",
            dtype == ScalarType::Long ? "dtype int64." : "the dtype of the distances.");
    return torch::stable::contiguous(tensor);
}

std::tuple<Tensor, Tensor, Tensor> pool(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                                        cuda::Activation activation, double epsilon, const std::string& precision) {
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const cuda::Precision chosen = precision_of(precision);
    const Context context(features);
    const cuda::Device device = cuda::current_device();
    const std::vector<int64_t> sizes{problem.features.size[0], problem.prototypes.size[0]};
    Tensor value = empty_like_values(features, {sizes[0], sizes[1]});
    Tensor similarity =
        activation == cuda::Activation::none ? value : empty_like_values(features, {sizes[0], sizes[1]});
    Tensor patch = torch::stable::new_empty(features, {sizes.data(), sizes.size()}, ScalarType::Long);
    Tensor workspace = Context::workspace(features, cuda::min_distance_workspace(problem, chosen, device));
    cuda::min_distance(problem, chosen,
                       {value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>(), similarity.mutable_data_ptr(),
                        activation, epsilon},
                       workspace.mutable_data_ptr(), device, context.stream());
    return {similarity, value, patch};
}

std::tuple<Tensor, Tensor> min_distance(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                                        const std::string& precision) {
    auto [unused, value, patch] = pool(features, prototypes, metric, cuda::Activation::none, 0.0, precision);
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
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    const Tensor positions = pairs(patch, "patch", ScalarType::Long, features, prototypes);
    const Tensor grad = pairs(grad_value, "grad_value", value_dtype(features), features, prototypes);
    Gradients gradients(features, prototypes, need_features, need_prototypes);
    const cuda::GradientOutput& output = gradients.output;
    if (output.features || output.prototypes) {
        Tensor workspace = Context::workspace(
            features, cuda::min_distance_backward_workspace(problem, output.features, output.prototypes));
        cuda::min_distance_backward(problem, positions.const_data_ptr<int64_t>(), grad.const_data_ptr(), output,
                                    workspace.mutable_data_ptr(), context.stream());
    }
    return {gradients.features, gradients.prototypes};
}

Tensor distance_map(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    Tensor distance = empty_like_values(features, {x[0], p[0], x[2] - p[2] + 1, x[3] - p[3] + 1});
    Tensor workspace = Context::workspace(features, cuda::distance_map_workspace(problem));
    cuda::distance_map(problem, distance.mutable_data_ptr(), workspace.mutable_data_ptr(), context.stream());
    return distance;
}

Tensor distance_at(const Tensor& features, const Tensor& prototypes, const Tensor& patch, const std::string& metric) {
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    const Tensor positions = pairs(patch, "patch", ScalarType::Long, features, prototypes);
    Tensor distance = empty_like_values(features, {problem.features.size[0], problem.prototypes.size[0]});
    Tensor workspace = Context::workspace(features, cuda::distance_at_workspace(problem));
    cuda::distance_at(problem, positions.const_data_ptr<int64_t>(), distance.mutable_data_ptr(),
                      workspace.mutable_data_ptr(), context.stream());
    return distance;
}

Tensor mean_activation(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                       const std::string& activation, double epsilon, const std::string& precision) {
    precision_of(precision);  // all of them are served by difference forms
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    Tensor mean = empty_like_values(features, {problem.features.size[0], problem.prototypes.size[0]});
    Tensor workspace = Context::workspace(features, cuda::mean_activation_workspace(problem));
    cuda::mean_activation(problem, {activation_of(activation), epsilon}, mean.mutable_data_ptr(),
                          workspace.mutable_data_ptr(), context.stream());
    return mean;
}

std::tuple<Tensor, Tensor> mean_activation_backward(const Tensor& grad, const Tensor& features,
                                                    const Tensor& prototypes, const std::string& metric,
                                                    const std::string& activation, double epsilon, bool need_features,
                                                    bool need_prototypes) {
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    const Tensor dense_grad = pairs(grad, "grad", value_dtype(features), features, prototypes);
    Gradients gradients(features, prototypes, need_features, need_prototypes);
    const cuda::GradientOutput& output = gradients.output;
    if (output.features || output.prototypes) {
        Tensor workspace = Context::workspace(
            features, cuda::mean_activation_backward_workspace(problem, output.features, output.prototypes));
        cuda::mean_activation_backward(problem, {activation_of(activation), epsilon}, dense_grad.const_data_ptr(),
                                       output, workspace.mutable_data_ptr(), context.stream());
    }
    return {gradients.features, gradients.prototypes};
}

std::tuple<Tensor, Tensor> topk_distance(const Tensor& features, const Tensor& prototypes, int64_t k,
                                         const std::string& metric, const std::string& precision) {
    precision_of(precision);  // all of them are served by difference forms
    const cuda::Problem problem = problem_of(features, prototypes, metric);
    const Context context(features);
    const int64_t* x = problem.features.size;
    const int64_t* p = problem.prototypes.size;
    const int64_t positions = (x[2] - p[2] + 1) * (x[3] - p[3] + 1);
    const int64_t most = positions < cuda::most_neighbours ? positions : cuda::most_neighbours;
    require(k >= 1 && k <= most, "k: must be from 1 to ", most, "; got ", k, ".");
    Tensor value = empty_like_values(features, {x[0], p[0], k});
    const std::vector<int64_t> sizes{x[0], p[0], k};
    Tensor patch = torch::stable::new_empty(features, {sizes.data(), sizes.size()}, ScalarType::Long);
    Tensor workspace = Context::workspace(features, cuda::topk_distance_workspace(problem));
    cuda::topk_distance(problem, k, value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>(),
                        workspace.mutable_data_ptr(), context.stream());
    return {value, patch};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(protokern_native, CUDA, m) {
    m.impl("min_distance", TORCH_BOX(&min_distance));
    m.impl("prototype_pool", TORCH_BOX(&prototype_pool));
    m.impl("min_distance_backward", TORCH_BOX(&min_distance_backward));
    m.impl("distance_map", TORCH_BOX(&distance_map));
    m.impl("distance_at", TORCH_BOX(&distance_at));
    m.impl("mean_activation", TORCH_BOX(&mean_activation));
    m.impl("mean_activation_backward", TORCH_BOX(&mean_activation_backward));
    m.impl("topk_distance", TORCH_BOX(&topk_distance));
}
