// The ops of `protokern_native` for the tensors of one device: arguments are checked, results allocated, and a core
// computes them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include "arguments.h"

namespace protokern::bindings {

using arguments::empty_like_values;
using arguments::empty_patches;
using arguments::Gradients;
using arguments::pairs;
using arguments::require;
using arguments::ScalarType;
using arguments::Tensor;
using arguments::value_dtype;

// `Core` is made of features, prototypes, metric and perhaps weights, checks them and holds the `problem` they are. Its
// functions are those of core.h; what they are given is contiguous and on the device.
template <typename Core>
struct Ops {
    static std::tuple<Tensor, Tensor, Tensor> pool(const Tensor& features, const Tensor& prototypes,
                                                   const std::string& metric, Activation activation, double epsilon,
                                                   const std::string& precision,
                                                   const std::optional<Tensor>& patch_weight) {
        const Core core(features, prototypes, metric, patch_weight);
        const int64_t images = features.size(0), count = prototypes.size(0);
        Tensor value = empty_like_values(features, {images, count});
        Tensor similarity = activation == Activation::none ? value : empty_like_values(features, {images, count});
        Tensor patch = empty_patches(features, {images, count});
        core.min_distance(precision, {value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>(),
                                      similarity.mutable_data_ptr(), activation, epsilon});
        return {similarity, value, patch};
    }

    static std::tuple<Tensor, Tensor> min_distance(const Tensor& features, const Tensor& prototypes,
                                                   const std::string& metric, const std::string& precision,
                                                   std::optional<Tensor> patch_weight) {
        auto [unused, value, patch] =
            pool(features, prototypes, metric, Activation::none, 0.0, precision, patch_weight);
        return {value, patch};
    }

    static std::tuple<Tensor, Tensor, Tensor> prototype_pool(const Tensor& features, const Tensor& prototypes,
                                                             const std::string& metric, const std::string& activation,
                                                             double epsilon, const std::string& precision,
                                                             std::optional<Tensor> patch_weight) {
        return pool(features, prototypes, metric, arguments::activation_of(activation), epsilon, precision,
                    patch_weight);
    }

    static std::tuple<Tensor, Tensor> min_distance_backward(const Tensor& grad_value, const Tensor& features,
                                                            const Tensor& prototypes, const Tensor& patch,
                                                            const std::string& metric, bool need_features,
                                                            bool need_prototypes) {
        const Core core(features, prototypes, metric);
        const Tensor positions = pairs(patch, "patch", ScalarType::Long, features, prototypes);
        core.check_positions(positions);
        const Tensor grad = pairs(grad_value, "grad_value", value_dtype(features), features, prototypes);
        Gradients gradients(features, prototypes, need_features, need_prototypes);
        if (gradients.wanted())
            core.min_distance_backward(positions.numel() > 0 ? positions.const_data_ptr<int64_t>() : nullptr,
                                       grad.const_data_ptr(), gradients.output);
        return {gradients.features, gradients.prototypes};
    }

    static Tensor distance_map(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
        const Core core(features, prototypes, metric);
        const int64_t* x = core.problem.features.size;
        const int64_t* p = core.problem.prototypes.size;
        Tensor distance = empty_like_values(features, {x[0], p[0], x[2] - p[2] + 1, x[3] - p[3] + 1});
        core.distance_map(distance.mutable_data_ptr());
        return distance;
    }

    static Tensor distance_at(const Tensor& features, const Tensor& prototypes, const Tensor& patch,
                              const std::string& metric) {
        const Core core(features, prototypes, metric);
        const Tensor positions = pairs(patch, "patch", ScalarType::Long, features, prototypes, true);
        core.check_positions(positions);
        Tensor distance = torch::stable::new_empty(features, positions.sizes(), value_dtype(features));
        const int64_t per_pair = positions.dim() == 3 ? positions.size(2) : 1;
        if (distance.numel() > 0)
            core.distance_at(positions.const_data_ptr<int64_t>(), per_pair, distance.mutable_data_ptr());
        return distance;
    }

    static void check_mean(Metric metric) {
        require(!is_product(metric), "metric: must be one whose mean is no closed form; got 'dot'.");
    }

    static Tensor mean_activation(const Tensor& features, const Tensor& prototypes, const std::string& metric,
                                  const std::string& activation, double epsilon, const std::string& precision) {
        Core::check_precision(precision);
        const Core core(features, prototypes, metric);
        check_mean(core.problem.metric);
        Tensor mean = empty_like_values(features, {features.size(0), prototypes.size(0)});
        core.mean_activation({arguments::activation_of(activation), epsilon}, mean.mutable_data_ptr());
        return mean;
    }

    static std::tuple<Tensor, Tensor> mean_activation_backward(const Tensor& grad, const Tensor& features,
                                                               const Tensor& prototypes, const std::string& metric,
                                                               const std::string& activation, double epsilon,
                                                               bool need_features, bool need_prototypes) {
        const Core core(features, prototypes, metric);
        check_mean(core.problem.metric);
        const Tensor dense_grad = pairs(grad, "grad", value_dtype(features), features, prototypes);
        Gradients gradients(features, prototypes, need_features, need_prototypes);
        if (gradients.wanted())
            core.mean_activation_backward({arguments::activation_of(activation), epsilon}, dense_grad.const_data_ptr(),
                                          gradients.output);
        return {gradients.features, gradients.prototypes};
    }

    static std::tuple<Tensor, Tensor> topk_distance(const Tensor& features, const Tensor& prototypes, int64_t k,
                                                    const std::string& metric, const std::string& precision,
                                                    std::optional<Tensor> patch_weight) {
        Core::check_precision(precision);
        const Core core(features, prototypes, metric, patch_weight);
        const int64_t most = std::min(arguments::positions_of(core.problem), Core::most_neighbours);
        require(k >= 1 && k <= most, "k: must be from 1 to ", most, "; got ", k, ".");
        Tensor value = empty_like_values(features, {features.size(0), prototypes.size(0), k});
        Tensor patch = empty_patches(features, {features.size(0), prototypes.size(0), k});
        core.topk_distance(k, value.mutable_data_ptr(), patch.mutable_data_ptr<int64_t>());
        return {value, patch};
    }

    template <typename Library>
    static void implement(Library& library) {
        library.impl("min_distance", TORCH_BOX(&Ops::min_distance));
        library.impl("prototype_pool", TORCH_BOX(&Ops::prototype_pool));
        library.impl("min_distance_backward", TORCH_BOX(&Ops::min_distance_backward));
        library.impl("distance_map", TORCH_BOX(&Ops::distance_map));
        library.impl("distance_at", TORCH_BOX(&Ops::distance_at));
        library.impl("mean_activation", TORCH_BOX(&Ops::mean_activation));
        library.impl("mean_activation_backward", TORCH_BOX(&Ops::mean_activation_backward));
        library.impl("topk_distance", TORCH_BOX(&Ops::topk_distance));
    }
};

}  // namespace protokern::bindings
