// The CUDA kernels of min_distance_backward, run by the emulator, against plain loops over the pairs.
#include "naive_cuda.h"
#include "naive_gradient.h"

using namespace naive;

namespace {

template <typename T>
Gradients<T> backward(const Data<T>& data, const std::vector<int64_t>& patch, const std::vector<T>& grad,
                      bool features = true, bool prototypes = true) {
    Gradients<T> out(data);
    GradientOutput output{features ? out.features.data() : nullptr, {}, prototypes ? out.prototypes.data() : nullptr};
    std::memcpy(output.features_stride, data.problem.features.stride, sizeof output.features_stride);
    Workspace workspace(cuda::min_distance_backward_workspace(data.problem, features, prototypes));
    cuda::min_distance_backward(data.problem, patch.data(), grad.data(), output, workspace.data(), no_stream);
    EXPECT(out.features.intact() && out.prototypes.intact() && workspace.intact(), "written outside");
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

    const Gradients<T> result = backward(data, patch, grad);
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

    EXPECT(backward(data, patch, grad, true, false).features.same_bits(result.features), "%s", describe(size).c_str());
    EXPECT(backward(data, patch, grad, false, true).prototypes.same_bits(result.prototypes), "%s",
           describe(size).c_str());
}

template <typename T>
void many_problems() {
    std::vector<Sizes> sizes = cuda_sizes();
    sizes.push_back({70, 5, 3, 4, 40, 1, 1});     // more images than a warp has lanes
    sizes.push_back({2, 260, 6, 6, 75, 1, 1});    // several blocks of channels
    sizes.push_back({1, 2, 120, 110, 40, 1, 1});  // more patches than are counted in shared memory
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
        const Gradients<T> result = backward<T>(data, {0, 0, other}, {T(1), T(-0.3), T(0.7)});
        for (int64_t i = 0; i < 38; ++i) EXPECT(result.features[i] == 0, "%g", double(result.features[i]));
        for (int64_t i = 0; i < 38; ++i) EXPECT(result.prototypes[i] == 0, "%g", double(result.prototypes[i]));
    }
}

template <typename T>
void what_is_not_finite_stays_visible() {
    Data<T> data({1, 5, 1, 1, 2, 1, 1}, Metric::sqeuclidean);
    data.p(1, 2, 0, 0) = std::numeric_limits<T>::quiet_NaN();
    const Gradients<T> result = backward<T>(data, {0, 0}, {T(1), T(1)});
    EXPECT(std::isnan(result.features[2]) && !std::isnan(result.features[1]), "features");
    EXPECT(std::isnan(result.prototypes[5 + 2]) && !std::isnan(result.prototypes[2]), "prototypes");
}

template <typename T>
void without_images_or_prototypes_gradients_are_zero() {
    const Data<T> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Gradients<T> a = backward<T>(no_images, {}, {});
    for (int64_t i = 0; i < 20; ++i) EXPECT(a.prototypes[i] == 0, "%g", double(a.prototypes[i]));
    Data<T> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    const Gradients<T> b = backward<T>(no_prototypes, {}, {});
    for (int64_t d = 0; d < 4; ++d)
        EXPECT(b.features[&no_prototypes.x(1, d, 2, 2) - no_prototypes.features.data()] == 0, "channel %ld", long(d));
}

template <typename T>
void patches_outside_the_grid_add_nothing() {
    const Data<T> data({1, 4, 2, 2, 3, 1, 1}, Metric::sqeuclidean);
    const Gradients<T> result = backward<T>(data, {4, -1, int64_t(1) << 33}, {T(1), T(1), T(1)});
    for (int64_t i = 0; i < 16; ++i) EXPECT(result.features[i] == 0, "%g", double(result.features[i]));
    for (int64_t i = 0; i < 12; ++i) EXPECT(result.prototypes[i] == 0, "%g", double(result.prototypes[i]));
}

// Gradient = 2 * g * (x - 0) with x = 1: ties of the rounding and their neighbours.
void half_precision_is_rounded_to_nearest_even() {
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
            Workspace workspace(cuda::min_distance_backward_workspace(problem, true, false));
            cuda::min_distance_backward(problem, &patch, &grad, {&out, {1, 1, 1, 1}, nullptr}, workspace.data(),
                                        no_stream);
            EXPECT(out == (i == 0 ? c.float16 : c.bfloat16), "%.9g -> %x", double(c.value), out);
        }
}

template <typename T>
void all_of() {
    many_problems<T>();
    exact_copies_and_zero_vectors_have_no_gradient<T>();
    what_is_not_finite_stays_visible<T>();
    without_images_or_prototypes_gradients_are_zero<T>();
    patches_outside_the_grid_add_nothing<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        half_precision_is_rounded_to_nearest_even();
    });
}
