// The CUDA searches with weights of the patches, run by the emulator, against plain loops.
#include <algorithm>

#include "naive_cuda.h"

using namespace naive;

namespace {

// A problem with weights: about a third 0, some 1, some very small.
template <typename T>
struct Weighted {
    Data<T> data;
    std::vector<T> weight;  // (B, N)

    Weighted(Sizes size, Metric metric, Layout layout = Layout::channels_first) : data(size, metric, layout) {
        std::mt19937 random(3);
        std::uniform_real_distribution<double> uniform;
        weight.resize(size.images * data.positions());
        for (T& w : weight) {
            const double u = uniform(random);
            w = static_cast<T>(u < 0.3 ? 0 : u > 0.85 ? 1 : u < 0.35 ? u * 1e-6 : u);
        }
        for (int64_t b = 0; b < size.images; ++b) at(b, data.positions() - 1) = T(0.75);
        data.problem.patch_weight = weight.data();
    }
    T& at(int64_t b, int64_t n) { return weight[b * data.positions() + n]; }
    double distance(int64_t b, int64_t k, int64_t n) {
        const double w = at(b, n);
        if (w == 0) return std::numeric_limits<double>::infinity();
        const double d = data.distance(b, k, n);
        if (data.problem.metric == Metric::dot) return w * d;
        return data.problem.metric == Metric::cosine ? (1 - w) + w * d : d - std::log(w);
    }
};

double slack_of(Precision precision) {
    return precision == Precision::fp32 ? 0 : precision == Precision::tf32 ? 0x1p-7 : 0x1p-4;
}

template <typename T>
void expect_nearest(Weighted<T>& problem, const Result<T>& result, Precision precision = Precision::fp32) {
    Data<T>& data = problem.data;
    const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
    for (int64_t b = 0; b < data.size.images; ++b)
        for (int64_t k = 0; k < data.size.prototypes; ++k) {
            const int64_t pair = b * data.size.prototypes + k;
            const int64_t patch = result.patch[pair];
            EXPECT(patch >= 0 && patch < data.positions(), "%s: patch %ld", describe(data.size).c_str(), long(patch));
            if (patch < 0 || patch >= data.positions()) continue;
            double nearest = problem.distance(b, k, 0), largest = 0;
            for (int64_t n = 0; n < data.positions(); ++n) {
                nearest = std::min(nearest, problem.distance(b, k, n));
                largest = std::max(largest, data.size_of(b, k, n));
            }
            const double expected = problem.distance(b, k, patch);
            const double size = std::max(1 + std::abs(expected), data.size_of(b, k, patch));
            EXPECT(std::abs(result.value[pair] - expected) <= tolerance * size, "%s: %g, loops %g",
                   describe(data.size).c_str(), double(result.value[pair]), expected);
            const double slack = sizeof(T) == 8 ? 0 : slack_of(precision) * (largest + 1);
            EXPECT(expected <= nearest + 1e-5 * (1 + std::abs(nearest)) * (sizeof(T) == 4) + 1e-12 + slack,
                   "%s: %g, nearest %g", describe(data.size).c_str(), expected, nearest);
        }
}

template <typename T>
void the_nearest_patch_is_that_of_the_loops() {
    for (const Sizes& size : cuda_sizes())
        for (const Metric metric : metrics) {
            Weighted<T> problem(size, metric, Layout::gaps);
            expect_nearest(problem, cuda_search(problem.data));
            if (sizeof(T) == 8) continue;
            for (const Precision precision : {Precision::tf32, Precision::bf16})
                expect_nearest(problem, cuda_search(problem.data, precision), precision);
        }
}

// No matrix units, prototypes that stream, a split grid: the same bits.
void every_kind_of_card() {
    for (const Sizes& size : {Sizes{2, 75, 7, 7, 131, 1, 1}, Sizes{1, 33, 13, 12, 20, 1, 1}})
        for (const Metric metric : metrics) {
            const Weighted<float> problem(size, metric);
            const Result<float> wanted = cuda_search(problem.data);
            for (const Card& card : {Card{3, 96 << 10, 86}, Card{3, 64 << 10, 75}, Card{132, 232448, 90}}) {
                const Result<float> result = cuda_search(problem.data, Precision::fp32, card);
                EXPECT(result.value.same_bits(wanted.value) && result.patch.same_bits(wanted.patch), "%s",
                       describe(size).c_str());
            }
        }
}

template <typename T>
void ones_change_no_bit() {
    for (const Sizes& size :
         {Sizes{2, 75, 7, 7, 33, 1, 1}, Sizes{2, 12, 5, 6, 19, 2, 3}, Sizes{1, 16, 1, 200, 6, 1, 1}})
        for (const Metric metric : metrics)
            for (const int64_t kinds : {1000, 3}) {
                Weighted<T> problem(size, metric);
                problem.data.repeat(kinds);
                for (int64_t d = 0; d < size.depth; ++d) problem.data.p(1, d, 0, 0) = 0;
                std::fill(problem.weight.begin(), problem.weight.end(), T(1));
                for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
                    const Result<T> weighted = cuda_search(problem.data, precision);
                    Data<T> plain = problem.data;
                    plain.bind();
                    plain.problem.patch_weight = nullptr;
                    const Result<T> wanted = cuda_search(plain, precision);
                    EXPECT(weighted.value.same_bits(wanted.value) && weighted.patch.same_bits(wanted.patch) &&
                               weighted.activation.same_bits(wanted.activation),
                           "%s", describe(size).c_str());
                }
            }
}

// Images of few kinds of patches and of few weights: the first of the best.
template <typename T>
void equal_weighted_distances_give_the_first() {
    for (const Metric metric : metrics)
        for (const Sizes size : {Sizes{2, 37, 6, 7, 20, 1, 1}, Sizes{1, 16, 1, 200, 6, 1, 1}}) {
            Weighted<T> problem(size, metric);
            problem.data.repeat(3);
            for (T& w : problem.weight) w = w < T(0.5) ? T(0) : T(0.5);
            const Result<T> result = cuda_search(problem.data);
            for (int64_t b = 0; b < size.images; ++b)
                for (int64_t k = 0; k < size.prototypes; ++k) {
                    const int64_t patch = result.patch[b * size.prototypes + k];
                    int64_t first = 0;
                    while (problem.distance(b, k, first) != problem.distance(b, k, patch)) ++first;
                    EXPECT(patch == first && problem.at(b, patch) > 0, "%s: patch %ld, first %ld",
                           describe(size).c_str(), long(patch), long(first));
                }
        }
}

// Image 0: no weight at all. 1 to 3: a weight that is none. 4: such a one, and zeros. 5: zeros, and a bad patch.
template <typename T>
void weights_that_spoil_an_image() {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const int64_t wanted[] = {0, 14, 8, 5, 8, 13};
    for (const Metric metric : metrics)
        for (const Precision precision : {Precision::fp32, Precision::bf16}) {
            Weighted<T> problem({7, 5, 3, 5, 4, 1, 1}, metric);
            for (const int64_t b : {0, 4, 5})
                for (int64_t n = 0; n < 15; ++n) problem.at(b, n) = 0;
            problem.at(1, 14) = nan, problem.at(4, 8) = nan;
            problem.at(2, 8) = T(-0.001), problem.at(2, 11) = nan;
            problem.at(3, 5) = T(1.001);
            problem.data.x(5, 2, 2, 3) = nan;
            problem.data.p(2, 3, 0, 0) = nan;
            const Result<T> result = cuda_search(problem.data, precision);
            for (int64_t pair = 0; pair < 28; ++pair) {
                const bool spoilt = pair < 24 || pair % 4 == 2;
                EXPECT(std::isnan(result.value[pair]) == spoilt, "pair %ld: %g", long(pair),
                       double(result.value[pair]));
                if (spoilt)
                    EXPECT(result.patch[pair] == (pair % 4 == 2 ? 0 : wanted[pair / 4]), "pair %ld: patch %ld",
                           long(pair), long(result.patch[pair]));
            }
        }
}

// What stands at patches without weight changes nothing, and where all others are infinite the first of those is taken.
void huge_values_stay_where_they_are() {
    for (const Metric metric : metrics)
        for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
            Weighted<float> problem({2, 19, 5, 6, 9, 1, 1}, metric);
            const Result<float> wanted = cuda_search(problem.data, precision);
            for (int64_t b = 0; b < 2; ++b)
                for (int64_t n = 0; n < 30; ++n)
                    for (int64_t d = 0; d < 19 && problem.at(b, n) == 0; ++d)
                        problem.data.patch(b, n, d, 0, 0) = d % 2 ? 1e38f : -1e38f;
            const Result<float> result = cuda_search(problem.data, precision);
            EXPECT(result.value.same_bits(wanted.value) && result.patch.same_bits(wanted.patch), "metric %d",
                   static_cast<int>(metric));
            for (float& value : problem.data.features) value = 1e30f;
            problem.at(0, 0) = problem.at(0, 1) = 0, problem.at(0, 2) = 0.5f;
            const Result<float> infinite = cuda_search(problem.data, precision);
            for (int64_t k = 0; k < 9 && metric == Metric::sqeuclidean; ++k)
                EXPECT(std::isinf(infinite.value[k]) && infinite.patch[k] == 2, "%g at %ld", double(infinite.value[k]),
                       long(infinite.patch[k]));
        }
}

template <typename T>
void compare_k_nearest(Weighted<T>& problem, int64_t k) {
    Data<T>& data = problem.data;
    const int64_t pairs = data.size.images * data.size.prototypes;
    Guarded<T> value(pairs * k, std::numeric_limits<T>::quiet_NaN());
    Guarded<int64_t> patch(pairs * k, -7);
    Workspace workspace(cuda::topk_distance_workspace(data.problem));
    cuda::topk_distance(data.problem, k, value.data(), patch.data(), workspace.data(), no_stream);
    EXPECT(value.intact() && patch.intact() && workspace.intact(), "written outside");
    const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t b = pair / data.size.prototypes, p = pair % data.size.prototypes;
        std::vector<std::pair<double, int64_t>> all;
        for (int64_t n = 0; n < data.positions(); ++n)
            if (problem.at(b, n) > 0) all.emplace_back(problem.distance(b, p, n), n);
        std::sort(all.begin(), all.end());
        for (int64_t i = 0; i < k; ++i) {
            const double d = value[pair * k + i];
            const int64_t n = patch[pair * k + i];
            if (all.empty()) {
                EXPECT(std::isnan(d) && n == 0, "%g at %ld", d, long(n));
            } else if (i >= static_cast<int64_t>(all.size())) {
                EXPECT(std::isinf(d) && n == patch[pair * k], "%g at %ld", d, long(n));
            } else {
                const double size = std::max(1 + std::abs(d), data.size_of(b, p, n));
                EXPECT(std::abs(d - all[i].first) <= tolerance * size, "%s: %g, loops %g", describe(data.size).c_str(),
                       d, all[i].first);
                EXPECT(n == all[i].second || std::abs(all[i].first - problem.distance(b, p, n)) < tolerance * size,
                       "%s: patch %ld, loops %ld", describe(data.size).c_str(), long(n), long(all[i].second));
            }
        }
    }
}

template <typename T>
void the_k_nearest_are_those_of_the_loops() {
    for (const Sizes& size : {Sizes{2, 3, 5, 7, 11, 1, 1}, Sizes{3, 17, 7, 7, 9, 1, 1}, Sizes{2, 12, 5, 6, 7, 2, 3}})
        for (const Metric metric : metrics)
            for (const int64_t k : {1, 3, 8}) {
                Weighted<T> problem(size, metric, Layout::gaps);
                compare_k_nearest(problem, k);
                for (int64_t n = 0; n < problem.data.positions(); ++n) problem.at(0, n) = T(n % 9 == 4 ? 0.5 : 0);
                compare_k_nearest(problem, k);
                for (int64_t n = 0; n < problem.data.positions(); ++n) problem.at(0, n) = 0;
                compare_k_nearest(problem, k);
            }
}

template <typename T>
void all_of() {
    the_nearest_patch_is_that_of_the_loops<T>();
    ones_change_no_bit<T>();
    equal_weighted_distances_give_the_first<T>();
    weights_that_spoil_an_image<T>();
    the_k_nearest_are_those_of_the_loops<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        every_kind_of_card();
        huge_values_stay_where_they_are();
    });
}
