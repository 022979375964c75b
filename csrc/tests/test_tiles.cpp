// mean_activation, its backward and topk_distance against plain loops.
#include <algorithm>

#include "naive_gradient.h"

using namespace naive;

namespace {

template <typename T>
Guarded<T> mean(const Data<T>& data, Activation kind, double epsilon, const Executor& executor = serial()) {
    Guarded<T> out(data.size.images * data.size.prototypes, std::numeric_limits<T>::quiet_NaN());
    mean_activation(data.problem, {kind, epsilon}, out.data(), executor);
    EXPECT(out.intact(), "written outside");
    return out;
}

template <typename T>
Gradients<T> mean_backward(const Data<T>& data, Activation kind, double epsilon, const std::vector<T>& grad,
                           const Executor& executor, bool features = true, bool prototypes = true) {
    return gradients_of(data, features, prototypes, [&](const GradientOutput& output) {
        mean_activation_backward(data.problem, {kind, epsilon}, grad.data(), output, executor);
    });
}

template <typename T>
void compare_with_loops(Sizes size, Metric metric, Layout layout, Activation kind, double epsilon, bool copies) {
    Data<T> data(size, metric, layout);
    if (copies)  // some pairs are close
        for (int64_t k = 0; k < size.prototypes; k += 2)
            for (int64_t d = 0; d < size.depth; ++d)
                for (int64_t i = 0; i < size.patch_height; ++i)
                    for (int64_t j = 0; j < size.patch_width; ++j)
                        data.p(k, d, i, j) =
                            data.patch(k % size.images, k % data.positions(), d, i, j) + static_cast<T>(k % 3) / 16;
    const int64_t pairs = size.images * size.prototypes;
    const int64_t N = data.positions();
    const std::vector<T> grad = random_grad<T>(pairs);
    const Guarded<T> result = mean(data, kind, epsilon);
    LoopGradients<T> loops(data);
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k) {
            double sum = 0, total = 0;
            for (int64_t n = 0; n < N; ++n) {
                const double d = std::max(0.0, data.distance(b, k, n));
                const double value = similarity_at({kind, epsilon}, d);
                sum += value, total += std::abs(value);
                loops.add_pair(b, k, n, double(grad[b * size.prototypes + k]) / N * slope_at({kind, epsilon}, d));
            }
            const double tolerance = (sizeof(T) == 8 ? 1e-12 : 4e-6) * (1e-3 + total / N);
            const double got = result[b * size.prototypes + k];
            EXPECT(std::abs(got - sum / N) <= tolerance, "%s: mean %.9g, loops %.9g", describe(size).c_str(), got,
                   sum / N);
        }

    const Gradients<T> gradients = mean_backward(data, kind, epsilon, grad, serial());
    loops.expect_near(gradients, sizeof(T) == 8 ? 1e-12 : 4e-6);

    EXPECT(mean(data, kind, epsilon, threads(3)).same_bits(result), "%s", describe(size).c_str());
    const Gradients<T> more = mean_backward(data, kind, epsilon, grad, threads(3));
    EXPECT(more.features.same_bits(gradients.features) && more.prototypes.same_bits(gradients.prototypes), "%s",
           describe(size).c_str());
    const Gradients<T> features_only = mean_backward(data, kind, epsilon, grad, threads(2), true, false);
    EXPECT(features_only.features.same_bits(gradients.features), "%s", describe(size).c_str());
    const Gradients<T> prototypes_only = mean_backward(data, kind, epsilon, grad, threads(2), false, true);
    EXPECT(prototypes_only.prototypes.same_bits(gradients.prototypes), "%s", describe(size).c_str());
}

template <typename T>
void many_problems() {
    for (const Sizes& size : many_sizes())
        for (const Metric metric : differences)
            for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::gaps})
                for (const bool copies : {false, true})
                    compare_with_loops<T>(size, metric, layout, Activation::log, 0.1, copies);
    for (const Activation kind : {Activation::log, Activation::linear, Activation::exponential, Activation::cosine})
        for (const double epsilon : {1e-2, 2.0})
            compare_with_loops<T>({3, 20, 9, 8, 70, 1, 1}, Metric::cosine, Layout::channels_first, kind, epsilon, true);
    // The loops have no exact copies under cosine, where the slope of this one is steepest.
    compare_with_loops<T>({3, 20, 9, 8, 70, 1, 1}, Metric::sqeuclidean, Layout::channels_first,
                          Activation::exponential_of_root, 1.0, true);
    // Images whose weights come in several waves, and waves of several images.
    compare_with_loops<T>({1, 8, 60, 70, 700, 1, 1}, Metric::sqeuclidean, Layout::channels_first, Activation::log, 0.1,
                          true);
    compare_with_loops<T>({70, 4, 5, 5, 50, 2, 2}, Metric::sqeuclidean, Layout::channels_first, Activation::log, 0.1,
                          true);
}

// One logarithm serves several distances; their products must stay in range for any of them.
template <typename T>
void logarithms_of_any_size() {
    for (const double scale : {1e-3, 1.0, 1e2, 1e4, 1e8})
        for (const double epsilon : {1e-20, 1e-12, 1e-4, 1.0, 5.0}) {
            Data<T> data({2, 20, 5, 9, 50, 1, 1}, Metric::sqeuclidean);
            for (T& value : data.features) value = static_cast<T>(value * scale);
            for (T& value : data.prototypes) value = static_cast<T>(value * scale);
            const Guarded<T> result = mean(data, Activation::log, epsilon);
            for (int64_t b = 0; b < 2; ++b)
                for (int64_t k = 0; k < 50; ++k) {
                    double sum = 0;
                    for (int64_t n = 0; n < 45; ++n)
                        sum += similarity_at({Activation::log, epsilon}, data.distance(b, k, n)) / 45;
                    const double limit = (sizeof(T) == 8 ? 1e-12 : 4e-6) * std::abs(sum);
                    EXPECT(std::abs(result[b * 50 + k] - sum) <= limit, "scale %g, epsilon %g: %.9g, loops %.9g", scale,
                           epsilon, double(result[b * 50 + k]), sum);
                }
        }
}

template <typename T>
void copies_have_full_similarity_and_no_gradient(double offset) {
    for (const Metric metric : differences) {
        Data<T> data({2, 100, 6, 6, 60, 2, 1}, metric);
        for (int64_t d = 0; d < 100; ++d) {
            const T value = static_cast<T>(data.x(0, d, 0, 0) + offset);
            for (int64_t b = 0; b < 2; ++b)
                for (int64_t r = 0; r < 6; ++r)
                    for (int64_t c = 0; c < 6; ++c) data.x(b, d, r, c) = value;
            for (int64_t k = 0; k < 60; ++k) data.p(k, d, 0, 0) = data.p(k, d, 1, 0) = value;
        }
        const Guarded<T> result = mean(data, Activation::log, 1e-4);
        for (int64_t i = 0; i < 120; ++i) EXPECT(std::abs(result[i] - 9.2103) < 1e-4, "%g", double(result[i]));
        const Gradients<T> gradients =
            mean_backward(data, Activation::log, 1e-4, std::vector<T>(120, T(0.7)), serial());
        for (int64_t b = 0; b < 2; ++b)
            for (int64_t d = 0; d < 100; ++d)
                EXPECT(gradients.features[&data.x(b, d, 3, 4) - data.features.data()] == 0, "channel %ld", long(d));
        for (int64_t i = 0; i < 60 * 200; ++i)
            EXPECT(gradients.prototypes[i] == 0, "%g", double(gradients.prototypes[i]));
    }
}

template <typename T>
void what_is_not_finite_gives_nan() {
    for (const Metric metric : metrics)
        for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
            Data<T> data({3, 20, 5, 5, 40, 2, 2}, metric);
            data.x(1, 3, 2, 3) = bad;
            data.p(7, 0, 1, 0) = bad;
            for (const Activation kind : {Activation::log, Activation::exponential, Activation::linear}) {
                if (metric == Metric::dot) break;
                const Guarded<T> result = mean(data, kind, 1e-4);
                for (int64_t b = 0; b < 3; ++b)
                    for (int64_t k = 0; k < 40; ++k)
                        EXPECT(std::isnan(result[b * 40 + k]) == (b == 1 || k == 7), "image %ld, prototype %ld",
                               long(b), long(k));
            }
            Guarded<T> value(3 * 40 * 5, T(0));
            Guarded<int64_t> patch(3 * 40 * 5, -7);
            topk_distance(data.problem, 5, value.data(), patch.data(), serial());
            for (int64_t b = 0; b < 3; ++b)
                for (int64_t k = 0; k < 40; ++k)
                    for (int64_t j = 0; j < 5; ++j) {
                        const int64_t at = (b * 40 + k) * 5 + j;
                        EXPECT(std::isnan(value[at]) == (b == 1 || k == 7), "image %ld, prototype %ld", long(b),
                               long(k));
                        if (k == 7)
                            EXPECT(patch[at] == 0, "%ld", long(patch[at]));
                        else if (b == 1)
                            EXPECT(patch[at] == 1 * 4 + 2, "%ld", long(patch[at]));
                    }
        }
}

// The k first of the positions sorted by distance, then number; distances as distance_map has them.
template <typename T>
void compare_with_sorted_map(Data<T>& data, int64_t k) {
    const int64_t pairs = data.size.images * data.size.prototypes;
    const int64_t N = data.positions();
    k = std::min(k, N);
    const Guarded<T> all = map(data);
    for (const Executor& executor : {serial(), threads(3)}) {
        Guarded<T> value(pairs * k, std::numeric_limits<T>::quiet_NaN());
        Guarded<int64_t> patch(pairs * k, -7);
        topk_distance(data.problem, k, value.data(), patch.data(), executor);
        EXPECT(value.intact() && patch.intact(), "written outside");
        std::vector<int64_t> order(N);
        for (int64_t pair = 0; pair < pairs; ++pair) {
            for (int64_t n = 0; n < N; ++n) order[n] = n;
            std::stable_sort(order.begin(), order.end(),
                             [&](int64_t a, int64_t b) { return all[pair * N + a] < all[pair * N + b]; });
            for (int64_t j = 0; j < k; ++j)
                EXPECT(patch[pair * k + j] == order[j] && value[pair * k + j] == all[pair * N + order[j]],
                       "%s, k %ld: number %ld is patch %ld, map has %ld", describe(data.size).c_str(), long(k), long(j),
                       long(patch[pair * k + j]), long(order[j]));
        }
    }
}

template <typename T>
void the_k_nearest() {
    for (const Sizes& size : many_sizes())
        for (const Metric metric : metrics)
            for (const int64_t k : {1, 2, 5, 8}) {
                Data<T> data(size, metric, k == 2 ? Layout::channels_last : Layout::channels_first);
                compare_with_sorted_map(data, k);
                if (k == 5) continue;
                data.repeat(std::min<int64_t>(4, size.width));
                compare_with_sorted_map(data, k);
            }
}

template <typename T>
void all_of() {
    many_problems<T>();
    logarithms_of_any_size<T>();
    copies_have_full_similarity_and_no_gradient<T>(0);
    copies_have_full_similarity_and_no_gradient<T>(1000);
    what_is_not_finite_gives_nan<T>();
    the_k_nearest<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
    });
}
