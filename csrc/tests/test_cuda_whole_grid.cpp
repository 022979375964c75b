// The CUDA kernels of mean_activation, its gradient and topk_distance, run by the emulator, against plain loops.
#include <algorithm>

#include "naive_cuda.h"
#include "naive_gradient.h"

using namespace naive;

namespace {

const Similarity similarities[] = {{Activation::log, 1e-4}, {Activation::linear, 1}, {Activation::exponential, 1}};

template <typename T>
Guarded<T> mean(const Data<T>& data, const Similarity& similarity) {
    Guarded<T> out(data.size.images * data.size.prototypes, std::numeric_limits<T>::quiet_NaN());
    Workspace workspace(cuda::mean_activation_workspace(data.problem));
    cuda::mean_activation(data.problem, similarity, out.data(), workspace.data(), no_stream);
    EXPECT(out.intact() && workspace.intact(), "written outside");
    return out;
}

template <typename T>
Gradients<T> mean_backward(const Data<T>& data, const Similarity& similarity, const std::vector<T>& grad,
                           bool features = true, bool prototypes = true) {
    return gradients_of(data, features, prototypes, [&](const GradientOutput& output) {
        Workspace workspace(cuda::mean_activation_backward_workspace(data.problem, features, prototypes));
        cuda::mean_activation_backward(data.problem, similarity, grad.data(), output, workspace.data(), no_stream);
        EXPECT(workspace.intact(), "written outside the workspace");
    });
}

std::vector<Sizes> sizes() {
    return {{1, 1, 1, 1, 1, 1, 1},   {2, 3, 5, 7, 11, 1, 1},  {3, 17, 7, 7, 33, 1, 1}, {1, 70, 5, 13, 69, 1, 1},
            {2, 2, 33, 17, 4, 1, 1}, {2, 12, 5, 6, 19, 2, 3}, {1, 3, 3, 3, 4, 3, 3},   {20, 2, 3, 3, 5, 1, 1}};
}

template <typename T>
void compare_mean_with_loops(const Sizes& size, Metric metric, Layout layout, const Similarity& similarity) {
    Data<T> data(size, metric, layout);
    const int64_t N = data.positions();
    const Guarded<T> result = mean(data, similarity);
    std::vector<T> grad(size.images * size.prototypes);
    LoopGradients<T> loops(data);
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k) {
            const int64_t pair = b * size.prototypes + k;
            grad[pair] = static_cast<T>((pair * 7919 % 200) / 100.0 - 1);
            double sum = 0;
            for (int64_t n = 0; n < N; ++n) {
                const double d = data.distance(b, k, n);
                sum += similarity_at(similarity, d);
                loops.add_pair(b, k, n, grad[pair] / double(N) * slope_at(similarity, d));
            }
            const double tolerance = (sizeof(T) == 8 ? 1e-12 : 1e-5) * (1 + std::abs(sum / N));
            EXPECT(std::abs(result[pair] - sum / N) <= tolerance, "%s: %g, loops %g", describe(size).c_str(),
                   double(result[pair]), sum / N);
        }
    const Gradients<T> gradients = mean_backward(data, similarity, grad);
    loops.expect_near(gradients, sizeof(T) == 8 ? 1e-12 : 1e-5);
    EXPECT(mean_backward(data, similarity, grad, true, false).features.same_bits(gradients.features) &&
               mean_backward(data, similarity, grad, false).prototypes.same_bits(gradients.prototypes),
           "%s", describe(size).c_str());
}

template <typename T>
void means_and_gradients_equal_the_loops() {
    for (const Sizes& size : sizes()) {
        for (const Metric metric : differences)
            for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::gaps})
                compare_mean_with_loops<T>(size, metric, layout,
                                           similarities[(size.depth + static_cast<int>(layout)) % 3]);
        compare_mean_with_loops<T>(size, Metric::sqeuclidean, Layout::channels_first,
                                   {Activation::exponential_of_root, 1});
    }
}

template <typename T>
void copies_are_exact_and_have_no_gradient() {
    for (const Metric metric : differences) {
        Data<T> data({1, 19, 2, 3, 3, 1, 1}, metric);
        for (T& value : data.features) value = static_cast<T>(value + 100);
        for (int64_t d = 0; d < 19; ++d) {
            for (int64_t n = 1; n < 6; ++n) data.patch(0, n, d, 0, 0) = data.patch(0, 0, d, 0, 0);
            for (int64_t k = 0; k < 3; ++k) data.p(k, d, 0, 0) = data.patch(0, 0, d, 0, 0);
        }
        const Guarded<T> result = mean(data, similarities[0]);
        const Gradients<T> gradients = mean_backward(data, similarities[0], std::vector<T>{T(1), T(-2), T(0.3)});
        for (int64_t k = 0; k < 3; ++k) EXPECT(std::abs(result[k] - std::log(1e4)) < 1e-5, "%g", double(result[k]));
        for (int64_t i = 0; i < 19 * 6; ++i) EXPECT(gradients.features[i] == 0, "%g", double(gradients.features[i]));
        for (int64_t i = 0; i < 19 * 3; ++i)
            EXPECT(gradients.prototypes[i] == 0, "%g", double(gradients.prototypes[i]));
    }
}

template <typename T>
void compare_k_nearest(Data<T>& data, int64_t k) {
    const Sizes& size = data.size;
    const int64_t pairs = size.images * size.prototypes;
    Guarded<T> value(pairs * k, std::numeric_limits<T>::quiet_NaN());
    Guarded<int64_t> patch(pairs * k, -7);
    Workspace workspace(cuda::topk_distance_workspace(data.problem));
    cuda::topk_distance(data.problem, k, value.data(), patch.data(), workspace.data(), no_stream);
    EXPECT(value.intact() && patch.intact() && workspace.intact(), "written outside");
    const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        std::vector<std::pair<double, int64_t>> all;
        for (int64_t n = 0; n < data.positions(); ++n)
            all.emplace_back(data.distance(pair / size.prototypes, pair % size.prototypes, n), n);
        std::sort(all.begin(), all.end());
        for (int64_t i = 0; i < k; ++i) {
            const double d = value[pair * k + i];
            const int64_t n = patch[pair * k + i];
            const int64_t b = pair / size.prototypes, p = pair % size.prototypes;
            const double relative = tolerance * data.size_of(b, p, n);
            EXPECT(std::abs(d - all[i].first) <= relative, "%s: %g, loops %g", describe(size).c_str(), d, all[i].first);
            EXPECT(n == all[i].second || std::abs(all[i].first - data.distance(b, p, n)) < relative,
                   "%s: patch %ld, loops %ld", describe(size).c_str(), long(n), long(all[i].second));
            if (i == 0) continue;
            const double before = value[pair * k + i - 1];
            EXPECT(before < d || (before == d && patch[pair * k + i - 1] < n), "%s: order", describe(size).c_str());
        }
    }
}

template <typename T>
void the_k_nearest_equal_the_loops() {
    for (const Sizes& size : sizes())
        for (const Metric metric : metrics)
            for (const int64_t k : {1, 3, 8}) {
                Data<T> data(size, metric, Layout::gaps);
                if (k > data.positions()) continue;
                compare_k_nearest(data, k);
                for (T& feature : data.features) feature = std::round(feature);  // ties
                for (T& prototype : data.prototypes) prototype = std::round(prototype);
                compare_k_nearest(data, k);
            }
}

template <typename T>
void what_is_not_finite_gives_nan() {
    Data<T> data({2, 5, 3, 3, 4, 1, 1}, Metric::sqeuclidean);
    data.x(0, 4, 1, 1) = std::numeric_limits<T>::infinity();
    data.x(0, 1, 2, 2) = std::numeric_limits<T>::quiet_NaN();
    data.p(2, 3, 0, 0) = -std::numeric_limits<T>::infinity();
    const Guarded<T> means = mean(data, similarities[0]);
    Guarded<T> value(16, 0);
    Guarded<int64_t> patch(16, -7);
    Workspace workspace(cuda::topk_distance_workspace(data.problem));
    cuda::topk_distance(data.problem, 2, value.data(), patch.data(), workspace.data(), no_stream);
    for (int64_t pair = 0; pair < 8; ++pair) {
        const bool bad = pair < 4 || pair % 4 == 2;
        EXPECT(std::isnan(means[pair]) == bad, "pair %ld: %g", long(pair), double(means[pair]));
        for (int64_t i = 0; i < 2; ++i) {
            EXPECT(std::isnan(value[pair * 2 + i]) == bad, "pair %ld", long(pair));
            if (bad) EXPECT(patch[pair * 2 + i] == (pair % 4 == 2 ? 0 : 4), "%ld", long(patch[pair * 2 + i]));
        }
    }
}

template <typename T>
void empty_problems() {
    const Data<T> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Data<T> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    mean(no_images, similarities[0]), mean(no_prototypes, similarities[0]);
    const Gradients<T> a = mean_backward(no_images, similarities[0], {});
    for (int64_t i = 0; i < 20; ++i) EXPECT(a.prototypes[i] == 0, "%g", double(a.prototypes[i]));
    const Gradients<T> b = mean_backward(no_prototypes, similarities[0], {});
    for (int64_t i = 0; i < 72; ++i) EXPECT(b.features[i] == 0, "%g", double(b.features[i]));
}

template <typename T>
void all_of() {
    means_and_gradients_equal_the_loops<T>();
    copies_are_exact_and_have_no_gradient<T>();
    the_k_nearest_equal_the_loops<T>();
    what_is_not_finite_gives_nan<T>();
    empty_problems<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
    });
}
