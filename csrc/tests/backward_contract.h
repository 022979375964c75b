// What min_distance_backward promises on every device. `Backward` is called like the core's function, without executor,
// workspace or stream.
#pragma once

#include "naive_gradient.h"

namespace naive {

template <typename T, typename Backward>
Gradients<T> gradients_at(const Backward& backward, const Data<T>& data, const std::vector<int64_t>& patch,
                          const std::vector<T>& grad, bool features = true, bool prototypes = true) {
    return gradients_of(data, features, prototypes, [&](const GradientOutput& output) {
        backward(data.problem, patch.data(), grad.data(), output);
    });
}

// The first of `all` is compared with the loops; every one gives its bits, also where only half is wanted.
template <typename T, typename Backward>
void compare_with_loops(const std::vector<Backward>& all, Sizes size, Metric metric, Layout layout) {
    Data<T> data(size, metric, layout);
    const int64_t pairs = size.images * size.prototypes;
    const std::vector<T> grad = random_grad<T>(pairs);
    std::vector<int64_t> patch(pairs);
    std::mt19937 random(2);
    for (int64_t i = 0; i < pairs; ++i)
        patch[i] = random() % (i % 3 ? data.positions() : 1);  // many prototypes share patch 0
    LoopGradients<T> loops(data);
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k)
            loops.add_pair(b, k, patch[b * size.prototypes + k], grad[b * size.prototypes + k]);

    const Gradients<T> result = gradients_at(all[0], data, patch, grad);
    loops.expect_near(result, sizeof(T) == 8 ? 1e-13 : 2e-6);
    for (const Backward& backward : all) {
        const Gradients<T> again = gradients_at(backward, data, patch, grad);
        EXPECT(again.features.same_bits(result.features) && again.prototypes.same_bits(result.prototypes), "%s",
               describe(size).c_str());
        EXPECT(gradients_at(backward, data, patch, grad, true, false).features.same_bits(result.features), "%s",
               describe(size).c_str());
        EXPECT(gradients_at(backward, data, patch, grad, false, true).prototypes.same_bits(result.prototypes), "%s",
               describe(size).c_str());
    }
}

template <typename T, typename Backward>
void many_problems(const std::vector<Backward>& all, const std::vector<Sizes>& sizes) {
    for (const Sizes& size : sizes)
        for (const Metric metric : metrics)
            for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::gaps})
                compare_with_loops<T>(all, size, metric, layout);
}

// `cosine_error`: what cosine may leave, in epsilons of the type.
template <typename T, typename Backward>
void exact_copies_and_zero_vectors_have_no_gradient(const Backward& backward, double cosine_error) {
    for (const Metric metric : differences) {
        Data<T> data({1, 19, 1, 2, 3, 1, 1}, metric);
        for (int64_t d = 0; d < 19; ++d) {
            for (int64_t k = 0; k < 3; ++k) data.p(k, d, 0, 0) = data.patch(0, 0, d, 0, 0);
            data.patch(0, 1, d, 0, 0) = 0;
        }
        const int64_t other = metric == Metric::cosine ? 1 : 0;  // under cosine the zero patch has none either
        const Gradients<T> result = gradients_at(backward, data, {0, 0, other}, {T(1), T(-0.3), T(0.7)});
        const double limit = metric == Metric::cosine ? cosine_error * std::numeric_limits<T>::epsilon() : 0;
        for (int64_t i = 0; i < 38; ++i)
            EXPECT(std::abs(result.features[i]) <= limit, "%g", double(result.features[i]));
        for (int64_t i = 0; i < 57; ++i)
            EXPECT(std::abs(result.prototypes[i]) <= limit, "%g", double(result.prototypes[i]));
    }
}

template <typename T, typename Backward>
void what_is_not_finite_stays_visible(const Backward& backward) {
    Data<T> data({1, 5, 1, 1, 2, 1, 1}, Metric::sqeuclidean);
    data.p(1, 2, 0, 0) = std::numeric_limits<T>::quiet_NaN();
    const Gradients<T> result = gradients_at(backward, data, {0, 0}, {T(1), T(1)});
    EXPECT(std::isnan(result.features[2]) && !std::isnan(result.features[1]), "features");
    EXPECT(std::isnan(result.prototypes[5 + 2]) && !std::isnan(result.prototypes[2]), "prototypes");
}

template <typename T, typename Backward>
void without_images_or_prototypes_gradients_are_zero(const Backward& backward) {
    const Data<T> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Gradients<T> a = gradients_at(backward, no_images, {}, {});
    for (int64_t i = 0; i < 20; ++i) EXPECT(a.prototypes[i] == 0, "%g", double(a.prototypes[i]));
    Data<T> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    const Gradients<T> b = gradients_at(backward, no_prototypes, {}, {});
    for (int64_t d = 0; d < 4; ++d)
        EXPECT(b.features[&no_prototypes.x(1, d, 2, 2) - no_prototypes.features.data()] == 0, "channel %ld", long(d));
}

// Gradient = 2 * g * (x - 0) with x = 1: ties of the rounding and their neighbours.
template <typename Backward>
void half_precision_is_rounded_to_nearest_even(const Backward& backward) {
    const uint16_t one[2] = {0x3c00, 0x3f80};
    const struct {
        float value;
        uint16_t float16, bfloat16;
    } cases[] = {{1.00048828125f, 0x3c00, 0x3f80}, {1.0014648f, 0x3c02, 0x3f80}, {1.00390625f, 0x3c04, 0x3f80},
                 {1.01171875f, 0x3c0c, 0x3f82},    {65519.0f, 0x7bff, 0x4780},   {65520.0f, 0x7c00, 0x4780},
                 {2.98e-8f, 0x0000, 0x3300},       {2.9803e-8f, 0x0001, 0x3300}, {6.1e-5f, 0x03ff, 0x3880}};
    for (const auto& c : cases)
        for (int i = 0; i < 2; ++i) {
            const DType dtype = i == 0 ? DType::float16 : DType::bfloat16;
            const uint16_t zero = 0;
            uint16_t out = 0;
            const int64_t patch = 0;
            const float grad = c.value / 2;
            const Problem problem{{&one[i], dtype, {1, 1, 1, 1}, {1, 1, 1, 1}},
                                  {&zero, dtype, {1, 1, 1, 1}, {1, 1, 1, 1}},
                                  Metric::sqeuclidean};
            backward(problem, &patch, &grad, GradientOutput{&out, {1, 1, 1, 1}, nullptr});
            EXPECT(out == (i == 0 ? c.float16 : c.bfloat16), "%.9g -> %x", double(c.value), out);
        }
}

template <typename T, typename Backward>
void backward_contract(const std::vector<Backward>& all, const std::vector<Sizes>& sizes, double cosine_error) {
    many_problems<T>(all, sizes);
    exact_copies_and_zero_vectors_have_no_gradient<T>(all[0], cosine_error);
    what_is_not_finite_stays_visible<T>(all[0]);
    without_images_or_prototypes_gradients_are_zero<T>(all[0]);
}

}  // namespace naive
