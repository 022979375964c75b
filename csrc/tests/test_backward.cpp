// min_distance_backward against plain loops over the pairs.
#include "naive_gradient.h"

using namespace naive;

namespace {

template <typename T>
Gradients<T> backward(const Data<T>& data, const std::vector<int64_t>& patch, const std::vector<T>& grad,
                      const Executor& executor, bool features = true, bool prototypes = true) {
    Gradients<T> out(data);
    GradientOutput output{features ? out.features.data() : nullptr, {}, prototypes ? out.prototypes.data() : nullptr};
    std::memcpy(output.features_stride, data.problem.features.stride, sizeof output.features_stride);
    min_distance_backward(data.problem, patch.data(), grad.data(), output, executor);
    EXPECT(out.features.intact() && out.prototypes.intact(), "written outside");
    return out;
}

template <typename T>
void compare_with_loops(Sizes size, Metric metric, Layout layout) {
    Data<T> data(size, metric, layout);
    const int64_t pairs = size.images * size.prototypes;
    std::vector<int64_t> patch(pairs);
    std::vector<T> grad(pairs);
    std::mt19937 random(1);
    for (int64_t i = 0; i < pairs; ++i) {
        patch[i] = random() % (i % 3 ? data.positions() : 1);  // many prototypes share patch 0
        grad[i] = static_cast<T>(static_cast<double>(random() % 2000) / 1000 - 1);
    }
    std::vector<double> dx(data.features.size()), dp(data.prototypes.size());
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k)
            add_pair(data, b, k, patch[b * size.prototypes + k], grad[b * size.prototypes + k], dx, dp);

    const Gradients<T> result = backward(data, patch, grad, serial());
    double scale = 1;
    for (const double value : dx) scale = std::max(scale, std::abs(value));
    for (const double value : dp) scale = std::max(scale, std::abs(value));
    const double tolerance = (sizeof(T) == 8 ? 1e-13 : 2e-6) * scale;
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t d = 0; d < size.depth; ++d)
            for (int64_t r = 0; r < size.height; ++r)
                for (int64_t c = 0; c < size.width; ++c) {
                    const int64_t at = &data.x(b, d, r, c) - data.features.data();
                    EXPECT(std::abs(result.features[at] - dx[at]) <= tolerance, "%s: %g, loops %g",
                           describe(size).c_str(), double(result.features[at]), dx[at]);
                }
    for (size_t i = 0; i < dp.size(); ++i)
        EXPECT(std::abs(result.prototypes[i] - dp[i]) <= tolerance, "%s: prototype %g, loops %g",
               describe(size).c_str(), double(result.prototypes[i]), dp[i]);

    const Gradients<T> more = backward(data, patch, grad, threads(3));
    EXPECT(more.features.same_bits(result.features) && more.prototypes.same_bits(result.prototypes), "%s",
           describe(size).c_str());
    const Gradients<T> features_only = backward(data, patch, grad, threads(2), true, false);
    EXPECT(features_only.features.same_bits(result.features), "%s", describe(size).c_str());
    const Gradients<T> prototypes_only = backward(data, patch, grad, threads(2), false, true);
    EXPECT(prototypes_only.prototypes.same_bits(result.prototypes), "%s", describe(size).c_str());
}

template <typename T>
void many_problems() {
    std::vector<Sizes> sizes = many_sizes();
    sizes.push_back({90, 64, 8, 8, 70, 1, 1});  // more images than one wave holds
    for (const Sizes& size : sizes)
        for (const Metric metric : {Metric::sqeuclidean, Metric::cosine})
            for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::gaps})
                compare_with_loops<T>(size, metric, layout);
}

template <typename T>
void exact_copies_and_zero_vectors_have_no_gradient() {
    for (const Metric metric : {Metric::sqeuclidean, Metric::cosine}) {
        Data<T> data({1, 19, 1, 2, 3, 1, 1}, metric);
        for (int64_t d = 0; d < 19; ++d) {
            for (int64_t k = 0; k < 3; ++k) data.p(k, d, 0, 0) = data.patch(0, 0, d, 0, 0);
            data.patch(0, 1, d, 0, 0) = 0;
        }
        const int64_t other = metric == Metric::cosine ? 1 : 0;  // under cosine the zero patch has none either
        const Gradients<T> result = backward<T>(data, {0, 0, other}, {T(1), T(-0.3), T(0.7)}, serial());
        for (int64_t i = 0; i < 38; ++i) {
            const double limit = metric == Metric::cosine ? 4 * std::numeric_limits<T>::epsilon() : 0;
            EXPECT(std::abs(result.features[i]) <= limit, "%g", double(result.features[i]));
        }
        for (int64_t i = 0; i < 38; ++i)
            EXPECT(std::abs(result.prototypes[i]) <= 1e-6, "%g", double(result.prototypes[i]));
    }
}

template <typename T>
void what_is_not_finite_stays_visible() {
    Data<T> data({1, 5, 1, 1, 2, 1, 1}, Metric::sqeuclidean);
    data.p(1, 2, 0, 0) = std::numeric_limits<T>::quiet_NaN();
    const Gradients<T> result = backward<T>(data, {0, 0}, {T(1), T(1)}, serial());
    EXPECT(std::isnan(result.features[2]) && !std::isnan(result.features[1]), "features");
    EXPECT(std::isnan(result.prototypes[5 + 2]) && !std::isnan(result.prototypes[2]), "prototypes");
}

template <typename T>
void without_images_or_prototypes_gradients_are_zero() {
    const Data<T> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Gradients<T> a = backward<T>(no_images, {}, {}, serial());
    for (int64_t i = 0; i < 20; ++i) EXPECT(a.prototypes[i] == 0, "%g", double(a.prototypes[i]));
    Data<T> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    const Gradients<T> b = backward<T>(no_prototypes, {}, {}, serial());
    for (int64_t d = 0; d < 4; ++d)
        EXPECT(b.features[&no_prototypes.x(1, d, 2, 2) - no_prototypes.features.data()] == 0, "channel %ld", long(d));
}

// Every float16 and bfloat16 value survives the way to float32 and back.
void half_precision_is_rounded_to_nearest_even() {
    for (const DType dtype : {DType::float16, DType::bfloat16}) {
        std::vector<uint16_t> features(1 << 16), out(1 << 16, 0xdead);
        std::vector<uint16_t> zero(1, 0);
        for (int i = 0; i < 1 << 16; ++i) features[i] = static_cast<uint16_t>(i);
        const std::vector<int64_t> patch(1 << 16, 0);
        const std::vector<float> half(1 << 16, 0.5f);  // gradient 2 * 0.5 * (x - 0) = x
        const Problem problem{{features.data(), dtype, {1 << 16, 1, 1, 1}, {1, 1, 1, 1}},
                              {zero.data(), dtype, {1, 1, 1, 1}, {1, 1, 1, 1}},
                              Metric::sqeuclidean};
        min_distance_backward(problem, patch.data(), half.data(), {out.data(), {1, 1, 1, 1}, nullptr}, serial());
        const int exponent = dtype == DType::float16 ? 0x7c00 : 0x7f80;
        for (int i = 0; i < 1 << 16; ++i) {
            const bool nan = (i & exponent) == exponent && (i & ~exponent & 0x7fff) != 0;
            if (nan)
                EXPECT((out[i] & exponent) == exponent && (out[i] & ~exponent & 0x7fff) != 0, "%x -> %x", i, out[i]);
            else
                EXPECT((out[i] & 0x7fff) == (i & 0x7fff), "%x -> %x", i, out[i]);
        }
    }
    // Ties and their neighbours: gradient = 2 * g * x with x = 1.
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
            min_distance_backward(problem, &patch, &grad, {&out, {1, 1, 1, 1}, nullptr}, serial());
            EXPECT(out == (i == 0 ? c.float16 : c.bfloat16), "%.9g -> %x", double(c.value), out);
        }
}

template <typename T>
void all_of() {
    many_problems<T>();
    exact_copies_and_zero_vectors_have_no_gradient<T>();
    what_is_not_finite_stays_visible<T>();
    without_images_or_prototypes_gradients_are_zero<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        half_precision_is_rounded_to_nearest_even();
    });
}
