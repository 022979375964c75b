// min_distance, distance_map and distance_at against plain loops.
#include "forward_contract.h"

using namespace naive;

namespace {

template <typename T>
void compare_with_loops(Sizes size, Metric metric, Layout layout) {
    Data<T> data(size, metric, layout);
    const Result<T> result = search(data);
    const Guarded<T> all = map(data);
    const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
    const int64_t N = data.positions();
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k) {
            const int64_t pair = b * size.prototypes + k;
            int64_t first = 0;
            for (int64_t n = 0; n < N; ++n) {
                const double expected = data.distance(b, k, n);
                EXPECT(std::abs(all[pair * N + n] - expected) <= tolerance * data.size_of(b, k, n),
                       "%s: map %g, loops %g", describe(size).c_str(), double(all[pair * N + n]), expected);
                if (all[pair * N + n] < all[pair * N + first]) first = n;
            }
            EXPECT(result.patch[pair] == first, "%s: patch %ld, map has %ld", describe(size).c_str(),
                   long(result.patch[pair]), long(first));
            EXPECT(result.value[pair] == all[pair * N + first], "%s", describe(size).c_str());
            const double d = result.value[pair];
            const double similarity = metric == Metric::dot ? -d : std::log((d + 1) / (d + 1e-4));
            EXPECT(std::abs(result.activation[pair] - similarity) <= tolerance * (1 + std::abs(similarity)),
                   "%g, expected %g", double(result.activation[pair]), similarity);
        }
}

template <typename T>
void many_problems() {
    for (const Sizes& size : many_sizes())
        for (const Metric metric : metrics)
            for (const Layout layout : {Layout::channels_first, Layout::channels_last, Layout::gaps, Layout::one_image})
                compare_with_loops<T>(size, metric, layout);
}

template <typename T>
void any_number_of_workers_gives_the_same_bits() {
    for (const Sizes size :
         {Sizes{7, 20, 6, 5, 131, 1, 1}, Sizes{1, 9, 5, 5, 300, 2, 2}, Sizes{3, 256, 40, 20, 70, 1, 1}}) {
        const Data<T> data(size, Metric::sqeuclidean);
        const Result<T> one = search(data);
        const Guarded<T> one_map = map(data);
        for (const int workers : {2, 3, 5}) {
            const Result<T> more = search(data, threads(workers));
            EXPECT(one.value.same_bits(more.value) && one.patch.same_bits(more.patch), "%s", describe(size).c_str());
            EXPECT(one_map.same_bits(map(data, threads(workers))), "%s", describe(size).c_str());
        }
    }
}

// Images of few kinds of patches, where nearly all pairs are ties: the first of the best kind, as in the map.
template <typename T>
void equal_patches_give_the_first() {
    for (const Metric metric : metrics)
        for (const Sizes size :
             {Sizes{2, 37, 6, 7, 60, 1, 1}, Sizes{2, 5, 12, 9, 40, 2, 3}, Sizes{1, 128, 60, 50, 20, 1, 1}})
            for (const int64_t kinds : {1, 5}) {
                Data<T> data(size, metric);
                data.repeat(kinds);
                const Result<T> result = search(data);
                const Guarded<T> all = map(data);
                const int64_t N = data.positions();
                for (int64_t pair = 0; pair < size.images * size.prototypes; ++pair) {
                    int64_t first = 0;
                    for (int64_t n = 0; n < N; ++n)
                        if (all[pair * N + n] < all[pair * N + first]) first = n;
                    EXPECT(result.patch[pair] == first && result.value[pair] == all[pair * N + first],
                           "%s, %ld kinds: patch %ld, map has %ld", describe(size).c_str(), long(kinds),
                           long(result.patch[pair]), long(first));
                }
            }
}

template <typename T>
void what_is_not_finite_gives_nan() {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const T inf = std::numeric_limits<T>::infinity();
    for (const Metric metric : metrics)
        for (const T bad : {nan, inf, -inf}) {
            Data<T> data({3, 20, 5, 5, 40, 2, 2}, metric);
            data.x(1, 3, 2, 3) = bad;
            data.x(1, 3, 4, 4) = bad;
            data.p(7, 0, 1, 0) = bad;
            const Result<T> result = search(data);
            const Guarded<T> all = map(data);
            for (int64_t b = 0; b < 3; ++b)
                for (int64_t k = 0; k < 40; ++k) {
                    const bool finite = b != 1 && k != 7;
                    EXPECT(std::isnan(result.value[b * 40 + k]) == !finite, "image %ld, prototype %ld", long(b),
                           long(k));
                    const int64_t first = k == 7 ? 0 : 1 * 4 + 2;  // the first patch that holds pixel (2, 3)
                    if (!finite) EXPECT(result.patch[b * 40 + k] == first, "patch %ld", long(result.patch[b * 40 + k]));
                    for (int64_t n = 0; n < 16; ++n) {
                        const int64_t r = n / 4, c = n % 4;
                        const bool holds = b == 1 && ((r >= 1 && r <= 2 && c >= 2 && c <= 3) || (r == 3 && c == 3));
                        EXPECT(std::isnan(all[(b * 40 + k) * 16 + n]) == (holds || k == 7), "map at %ld", long(n));
                    }
                }
        }
}

template <typename T>
void finite_values_of_any_size_work() {
    const double largest = sizeof(T) == 8 ? 1e150 : 1e18;
    for (const double scale : {1e-44, 1e-38, 1e-25, 1e-10, 1e10, largest}) {
        Data<T> data({1, 30, 4, 4, 35, 1, 1}, Metric::sqeuclidean);
        for (T& value : data.features) value = static_cast<T>(value * scale);
        for (T& value : data.prototypes) value = static_cast<T>(value * scale);
        const Result<T> result = search(data);
        const Guarded<T> all = map(data);
        for (int64_t k = 0; k < 35; ++k) {
            int64_t first = 0;
            for (int64_t n = 0; n < 16; ++n)
                if (all[k * 16 + n] < all[k * 16 + first]) first = n;
            EXPECT(result.patch[k] == first && result.value[k] == all[k * 16 + first], "scale %g", scale);
        }
    }
}

template <typename T>
void empty_problems_write_nothing() {
    const Data<T> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Data<T> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    search(no_images), map(no_images), search(no_prototypes), map(no_prototypes);
}

void every_half_is_widened_exactly() {
    std::vector<uint16_t> patterns(1 << 16);
    for (int i = 0; i < 1 << 16; ++i) patterns[i] = static_cast<uint16_t>(i);
    half_precision_is_widened_exactly(patterns, [](const Problem& problem) {
        Guarded<float> distance(problem.features.size[0], -1.0f);
        distance_map(problem, distance.data(), serial());
        EXPECT(distance.intact(), "written outside");
        return distance;
    });
}

template <typename T>
void distances_at_given_patches_are_those_of_the_map() {
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes()) {
            Data<T> data(size, metric);
            const Guarded<T> all = map(data);
            for (const int64_t per_pair : {1, 3}) {
                std::vector<int64_t> patch(size.images * size.prototypes * per_pair);
                for (size_t i = 0; i < patch.size(); ++i) patch[i] = static_cast<int64_t>(i * 7919) % data.positions();
                Guarded<T> distance(static_cast<int64_t>(patch.size()), std::numeric_limits<T>::quiet_NaN());
                distance_at(data.problem, patch.data(), per_pair, distance.data(), threads(2));
                EXPECT(distance.intact(), "written outside");
                for (size_t i = 0; i < patch.size(); ++i)
                    EXPECT(distance[i] == all[i / per_pair * data.positions() + patch[i]], "%s",
                           describe(size).c_str());
            }
        }
}

double rounded_to_bfloat16(double value) {
    uint32_t bits;
    const float single = static_cast<float>(value);
    std::memcpy(&bits, &single, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    float rounded;
    std::memcpy(&rounded, &bits, sizeof rounded);
    return rounded;
}

// The patch of a rounded search is as near as rounding lets it tell, the first among equal ones, and its distance
// exact.
void a_rounded_search_loses_no_more_than_its_rounding() {
    for (const Metric metric : metrics)
        for (const Sizes& size : many_sizes())
            for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
                Data<float> data(size, metric, layout);
                data.problem.precision = SearchPrecision::bf16;
                const Result<float> result = search(data, threads(2));
                const Guarded<float> all = map(data);
                const int64_t N = data.positions();
                for (int64_t pair = 0; pair < size.images * size.prototypes; ++pair) {
                    const int64_t chosen = result.patch[pair];
                    EXPECT(chosen >= 0 && chosen < N, "patch %ld", long(chosen));
                    EXPECT(result.value[pair] == all[pair * N + chosen], "%s", describe(size).c_str());
                    double nearest = all[pair * N], farthest = 0, largest = 0;
                    for (int64_t n = 0; n < N; ++n) {
                        nearest = std::min(nearest, double(all[pair * N + n]));
                        farthest = std::max(farthest, double(all[pair * N + n]));
                        largest = std::max(largest, data.size_of(pair / size.prototypes, pair % size.prototypes, n));
                    }
                    // Lengths of about sqrt(D h w) around a centre at distance 0.2 of 0; cosine distances are up to 2.
                    const double length = std::sqrt(1.5 * size.depth * size.patch_height * size.patch_width);
                    // Products are off by 2^-8 of the lengths at most, both of two.
                    const double slack = metric == Metric::cosine ? 0.02
                                         : metric == Metric::dot  ? largest / 64
                                                                  : 3 * length / 256;
                    const bool is_square = metric == Metric::sqeuclidean;
                    const double reached = is_square ? std::sqrt(result.value[pair]) : result.value[pair];
                    const double wanted = is_square ? std::sqrt(nearest) : nearest;
                    EXPECT(reached <= wanted + slack, "%s: %g, nearest %g, farthest %g", describe(size).c_str(),
                           reached, wanted, farthest);
                }
            }
}

// Values that are bfloat16 already lose nothing: the patch is the nearest but for the rounding of float32 sums.
void a_rounded_search_of_rounded_values_is_exact() {
    for (const double offset : {0.0, 3.0}) {
        Data<float> data({3, 96, 7, 6, 70, 1, 1}, Metric::sqeuclidean);
        for (float& value : data.features) value = static_cast<float>(rounded_to_bfloat16(value + offset));
        for (float& value : data.prototypes) value = static_cast<float>(rounded_to_bfloat16(value + offset));
        const Guarded<float> all = map(data);
        std::vector<uint16_t> features(data.features.size()), prototypes(data.prototypes.size());
        const auto halves = [](const std::vector<float>& from, std::vector<uint16_t>& to) {
            for (size_t i = 0; i < from.size(); ++i) {
                uint32_t bits;
                std::memcpy(&bits, &from[i], sizeof bits);
                to[i] = static_cast<uint16_t>(bits >> 16);
            }
        };
        halves(data.features, features), halves(data.prototypes, prototypes);
        data.problem.features.data = features.data(), data.problem.features.dtype = DType::bfloat16;
        data.problem.prototypes.data = prototypes.data(), data.problem.prototypes.dtype = DType::bfloat16;
        data.problem.precision = SearchPrecision::bf16;
        const Result<float> result = search(data);
        for (int64_t pair = 0; pair < 210; ++pair) {
            double nearest = all[pair * 42];
            for (int64_t n = 0; n < 42; ++n) nearest = std::min(nearest, double(all[pair * 42 + n]));
            EXPECT(result.value[pair] <= nearest * (1 + 1e-5), "offset %g: %g, nearest %g", offset,
                   double(result.value[pair]), nearest);
        }
    }
}

template <typename T>
void all_of() {
    const auto one_worker = [](const Data<T>& data) { return search(data); };
    many_problems<T>();
    any_number_of_workers_gives_the_same_bits<T>();
    equal_patches_give_the_first<T>();
    for (const double offset : {0.0, 10.0, 1000.0}) exact_copies_are_found<T>(one_worker, offset);
    what_is_not_finite_gives_nan<T>();
    zero_vectors_have_cosine_distance_one<T>(one_worker);
    finite_values_of_any_size_work<T>();
    empty_problems_write_nothing<T>();
    distances_at_given_patches_are_those_of_the_map<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        every_half_is_widened_exactly();
        if (chosen_instructions().bfloat16.lanes > 0) {
            a_rounded_search_loses_no_more_than_its_rounding();
            a_rounded_search_of_rounded_values_is_exact();
        }
    });
}
