// min_distance and topk_distance with weights of the patches, against plain loops.
#include <algorithm>

#include "naive.h"

using namespace naive;

namespace {

// A problem whose patches have weights: a third 0, some 1, some very small, the last patch always above 0.
template <typename T>
struct Weighted : Data<T> {
    std::vector<T> weight;  // (B, N)

    Weighted(Sizes size, Metric metric, Layout layout = Layout::channels_first) : Data<T>(size, metric, layout) {
        std::mt19937 random(5);
        std::uniform_real_distribution<double> uniform;
        weight.resize(size.images * this->positions());
        for (T& w : weight) {
            const double drawn = uniform(random);
            w = static_cast<T>(drawn < 0.33 ? 0 : drawn > 0.8 ? 1 : drawn < 0.4 ? drawn * 1e-7 : drawn);
        }
        for (int64_t b = 0; b < size.images; ++b) at(b, this->positions() - 1) = T(0.5);
        this->problem.patch_weight = weight.data();
    }
    T& at(int64_t b, int64_t n) { return weight[b * this->positions() + n]; }

    // So that 1 - d, or exp(-d), is multiplied with the weight; infinite at weight 0.
    double weighted(int64_t b, int64_t k, int64_t n) {
        const double w = at(b, n);
        if (w == 0) return std::numeric_limits<double>::infinity();
        const double d = this->distance(b, k, n);
        if (this->problem.metric == Metric::dot) return w * d;
        return this->problem.metric == Metric::cosine ? 1 - w * (1 - d) : d - std::log(w);
    }
    // The same in the type of the results and of the distances `all` (B, P, N): what is compared bit for bit.
    T rounded(const Guarded<T>& all, int64_t b, int64_t k, int64_t n) {
        const T w = at(b, n);
        if (w == 0) return std::numeric_limits<T>::infinity();
        const T d = all[(b * this->size.prototypes + k) * this->positions() + n];
        if (this->problem.metric == Metric::cosine) return (T(1) - w) + w * d;
        if (this->problem.metric == Metric::dot) return w * d;
        return d - std::log(w);
    }
};

template <typename T>
void expect_first_nearest(Weighted<T>& data, const Result<T>& result) {
    const Guarded<T> all = map(data);
    for (int64_t b = 0; b < data.size.images; ++b)
        for (int64_t k = 0; k < data.size.prototypes; ++k) {
            int64_t nearest = -1;
            for (int64_t n = 0; n < data.positions(); ++n)
                if (data.at(b, n) > 0 && (nearest < 0 || data.rounded(all, b, k, n) < data.rounded(all, b, k, nearest)))
                    nearest = n;
            const int64_t pair = b * data.size.prototypes + k;
            EXPECT(result.patch[pair] == nearest, "%s: patch %ld, loops %ld", describe(data.size).c_str(),
                   long(result.patch[pair]), long(nearest));
            EXPECT(result.value[pair] == data.rounded(all, b, k, nearest), "%s: %g, loops %g",
                   describe(data.size).c_str(), double(result.value[pair]), double(data.rounded(all, b, k, nearest)));
            const double wanted = data.weighted(b, k, nearest);
            const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
            EXPECT(std::abs(result.value[pair] - wanted) <=
                       tolerance * std::max(1 + std::abs(wanted), data.size_of(b, k, nearest)),
                   "%s: %g, in double %g", describe(data.size).c_str(), double(result.value[pair]), wanted);
        }
}

template <typename T>
void the_first_of_the_smallest_weighted_distances() {
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes())
            for (const bool alike : {false, true})
                for (const int workers : {1, 3}) {
                    Weighted<T> data(size, metric, Layout::channels_last);
                    if (alike) {
                        data.repeat(std::min<int64_t>(3, size.width));
                        // Of the few kinds of patches, many have the same weight too.
                        for (T& w : data.weight) w = w > T(0.5) ? T(0.75) : w > 0 ? T(0.7) : T(0);
                    }
                    expect_first_nearest(data, search(data, workers == 1 ? serial() : threads(workers)));
                }
}

template <typename T>
void a_rounded_search_takes_nothing_without_weight() {
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes()) {
            Weighted<T> data(size, metric);
            data.problem.precision = SearchPrecision::bf16;
            const Result<T> result = search(data);
            const Guarded<T> all = map(data);
            for (int64_t b = 0; b < size.images; ++b)
                for (int64_t k = 0; k < size.prototypes; ++k) {
                    const int64_t pair = b * size.prototypes + k;
                    const int64_t patch = result.patch[pair];
                    EXPECT(data.at(b, patch) > 0, "%s: patch %ld", describe(size).c_str(), long(patch));
                    EXPECT(result.value[pair] == data.rounded(all, b, k, patch), "%s", describe(size).c_str());
                    double nearest = data.weighted(b, k, patch);
                    const double reached = nearest;
                    double largest = 0;
                    for (int64_t n = 0; n < data.positions(); ++n) {
                        nearest = std::min(nearest, data.weighted(b, k, n));
                        largest = std::max(largest, data.size_of(b, k, n));
                    }
                    const double length = 1.5 * size.depth * size.patch_height * size.patch_width;
                    const double slack = metric == Metric::cosine ? 0.02
                                         : metric == Metric::dot  ? largest / 64
                                                                  : (length + 4) / 24;
                    EXPECT(reached <= nearest + slack, "%s: %g, nearest %g", describe(size).c_str(), reached, nearest);
                }
        }
}

template <typename T>
void ones_change_no_bit() {
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes())
            for (const bool alike : {false, true}) {
                Weighted<T> data(size, metric);
                if (alike) data.repeat(std::min<int64_t>(3, size.width));
                std::fill(data.weight.begin(), data.weight.end(), T(1));
                const Result<T> weighted = search(data);
                data.problem.patch_weight = nullptr;
                const Result<T> plain = search(data);
                EXPECT(weighted.value.same_bits(plain.value) && weighted.patch.same_bits(plain.patch) &&
                           weighted.activation.same_bits(plain.activation),
                       "%s", describe(size).c_str());
            }
}

template <typename T>
void weights_that_spoil_an_image() {
    for (const Metric metric : metrics)
        for (const Sizes& size : {Sizes{5, 17, 5, 7, 50, 1, 1}, Sizes{5, 160, 60, 50, 3, 1, 1}}) {
            Weighted<T> data(size, metric);
            const int64_t last = data.positions() - 1, P = size.prototypes;
            const T nan = std::numeric_limits<T>::quiet_NaN();
            for (int64_t n = 0; n <= last; ++n) data.at(0, n) = 0;
            data.at(1, last) = nan;
            data.at(2, 3) = T(1.001), data.at(2, last) = nan;
            data.at(3, 9) = -data.at(3, last);
            data.patch(3, 7, 1, 0, 0) = nan;
            data.at(3, 7) = 0;  // does not hide what is not finite
            data.p(1, 2, 0, 0) = nan;
            const Result<T> result = search(data, threads(2));
            const int64_t wanted[] = {0, last, 3, 7};
            for (int64_t b = 0; b < 5; ++b)
                for (int64_t k = 0; k < P; ++k) {
                    const bool spoilt = b < 4 || k == 1;
                    EXPECT(std::isnan(result.value[b * P + k]) == spoilt, "%ld %ld: %g", long(b), long(k),
                           double(result.value[b * P + k]));
                    if (spoilt)
                        EXPECT(result.patch[b * P + k] == (k == 1 ? 0 : wanted[b]), "%ld %ld: %ld", long(b), long(k),
                               long(result.patch[b * P + k]));
                }
        }
}

// Distances that overflow are infinite like those of patches that take no part, which stay out all the same.
template <typename T>
void huge_values_never_bring_a_patch_back() {
    for (const Sizes& size : {Sizes{2, 17, 5, 7, 50, 1, 1}, Sizes{1, 160, 60, 50, 3, 1, 1}}) {
        Weighted<T> data(size, Metric::sqeuclidean);
        const double huge = std::sqrt(static_cast<double>(std::numeric_limits<T>::max()));
        for (T& value : data.features) value = static_cast<T>(huge);
        for (T& value : data.prototypes) value = -value * static_cast<T>(huge);
        const int64_t usable = data.positions() / 2;
        for (int64_t b = 0; b < size.images; ++b)
            for (int64_t n = 0; n < usable; ++n) data.at(b, n) = 0;
        for (int64_t b = 0; b < size.images; ++b) data.at(b, usable) = 1;
        const Result<T> result = search(data);
        for (int64_t pair = 0; pair < size.images * size.prototypes; ++pair)
            EXPECT(result.value[pair] > 1e30 && result.patch[pair] >= usable, "%g at %ld", double(result.value[pair]),
                   long(result.patch[pair]));
    }
}

template <typename T>
void the_k_nearest_are_the_first_of_the_sorted_ones() {
    constexpr int64_t k = 4;
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes())
            for (const bool few : {false, true}) {
                Weighted<T> data(size, metric);
                const int64_t N = data.positions(), pairs = size.images * size.prototypes;
                if (N < k) continue;
                if (few)
                    for (int64_t i = 0; i < static_cast<int64_t>(data.weight.size()); ++i)
                        data.weight[i] = i % N == 1 || i % N == N - 1 ? T(0.6) : T(0);
                Guarded<T> value(pairs * k, std::numeric_limits<T>::quiet_NaN());
                Guarded<int64_t> patch(pairs * k, -7);
                topk_distance(data.problem, k, value.data(), patch.data(), threads(2));
                EXPECT(value.intact() && patch.intact(), "written outside");
                const Guarded<T> all = map(data);
                for (int64_t pair = 0; pair < pairs; ++pair) {
                    const int64_t b = pair / size.prototypes, p = pair % size.prototypes;
                    std::vector<int64_t> order;
                    for (int64_t n = 0; n < N; ++n)
                        if (data.at(b, n) > 0) order.push_back(n);
                    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t c) {
                        return data.rounded(all, b, p, a) < data.rounded(all, b, p, c);
                    });
                    for (int64_t j = 0; j < k; ++j) {
                        const bool there = j < static_cast<int64_t>(order.size());
                        const T wanted = there ? data.rounded(all, b, p, order[j]) : std::numeric_limits<T>::infinity();
                        EXPECT(value[pair * k + j] == wanted && patch[pair * k + j] == order[there ? j : 0],
                               "%s, number %ld: %g at %ld, loops %g at %ld", describe(size).c_str(), long(j),
                               double(value[pair * k + j]), long(patch[pair * k + j]), double(wanted),
                               long(order[there ? j : 0]));
                    }
                }
            }
}

template <typename T>
void all_of() {
    the_first_of_the_smallest_weighted_distances<T>();
    ones_change_no_bit<T>();
    weights_that_spoil_an_image<T>();
    huge_values_never_bring_a_patch_back<T>();
    the_k_nearest_are_the_first_of_the_sorted_ones<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        if (chosen_instructions().bfloat16.lanes > 0) a_rounded_search_takes_nothing_without_weight<float>();
    });
}
