// The CUDA kernels of min_distance, distance_map and distance_at, run by the emulator, against plain loops.
#include "forward_contract.h"
#include "naive_cuda.h"
#include "naive_gradient.h"

using namespace naive;

namespace {

const Precision precisions[] = {Precision::fp32, Precision::tf32, Precision::bf16};

// Relative error of the search's scores to the product of the lengths.
double search_error(Precision precision) {
    return precision == Precision::fp32 ? 0 : precision == Precision::tf32 ? 0x1p-10 : 0x1p-7;
}

template <typename T>
void compare_with_loops(Sizes size, Metric metric, Layout layout, Precision precision, const Card& card = {}) {
    Data<T> data(size, metric, layout);
    const Result<T> result = cuda_search(data, precision, card);
    const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
    const int64_t N = data.positions();
    for (int64_t b = 0; b < size.images; ++b)
        for (int64_t k = 0; k < size.prototypes; ++k) {
            const int64_t pair = b * size.prototypes + k;
            const int64_t patch = result.patch[pair];
            EXPECT(patch >= 0 && patch < N, "%s: patch %ld", describe(size).c_str(), long(patch));
            if (patch < 0 || patch >= N) continue;
            double nearest = data.distance(b, k, 0), largest = 0;
            for (int64_t n = 0; n < N; ++n) {
                nearest = std::min(nearest, data.distance(b, k, n));
                largest = std::max(largest, data.size_of(b, k, n));
            }
            const double d = result.value[pair];
            const double expected = data.distance(b, k, patch);
            EXPECT(std::abs(d - expected) <= tolerance * data.size_of(b, k, patch), "%s: %g, loops %g",
                   describe(size).c_str(), d, expected);
            const double slack = sizeof(T) == 8 ? 0 : 8 * search_error(precision) * (largest + 1);
            EXPECT(expected <= nearest + 1e-5 * std::abs(nearest) + 1e-12 + slack,
                   "%s: distance %g at patch %ld, nearest %g", describe(size).c_str(), expected, long(patch), nearest);
            const double similarity = metric == Metric::dot ? -d : std::log((d + 1) / (d + 1e-4));
            EXPECT(std::abs(result.activation[pair] - similarity) <= tolerance * (1 + std::abs(similarity)),
                   "%g, expected %g", double(result.activation[pair]), similarity);
        }
    std::vector<int64_t> twice(2 * size.images * size.prototypes);
    for (size_t i = 0; i < twice.size(); ++i) twice[i] = i % 2 ? 0 : result.patch[static_cast<int64_t>(i) / 2];
    const Guarded<T> both = cuda_at<T>(data.problem, twice.data(), 2);
    const Guarded<T> at = cuda_at<T>(data.problem, result.patch.memory.data() + result.patch.guard);
    for (int64_t pair = 0; pair < size.images * size.prototypes; ++pair) {
        const double wanted = data.distance(pair / size.prototypes, pair % size.prototypes, 0);
        const double relative = tolerance * data.size_of(pair / size.prototypes, pair % size.prototypes, 0);
        EXPECT(both[2 * pair] == at[pair] && std::abs(both[2 * pair + 1] - wanted) <= relative,
               "%s: two patches of a pair", describe(size).c_str());
    }
    EXPECT(std::memcmp(at.memory.data() + at.guard, result.value.memory.data() + at.guard,
                       size.images * size.prototypes * sizeof(T)) == 0,
           "%s: distance_at differs", describe(size).c_str());
}

template <typename T>
void many_problems() {
    for (const Sizes& size : cuda_sizes())
        for (const Metric metric : metrics) {
            if (sizeof(T) == 8) {
                compare_with_loops<T>(size, metric, Layout::gaps, Precision::fp32);
            } else {
                for (const Layout layout :
                     {Layout::channels_first, Layout::channels_last, Layout::gaps, Layout::one_image})
                    compare_with_loops<T>(size, metric, layout, Precision::fp32);
                compare_with_loops<T>(size, metric, Layout::channels_first, Precision::tf32);
                compare_with_loops<T>(size, metric, Layout::channels_last, Precision::bf16);
            }
        }
}

// Too little shared memory to keep the prototypes, no matrix units, many multiprocessors: other ways to the same patch.
void every_kind_of_card() {
    const Sizes sizes[] = {{2, 75, 7, 7, 131, 1, 1}, {1, 33, 13, 12, 20, 1, 1}, {2, 20, 9, 8, 9, 2, 2}};
    for (const Sizes& size : sizes)
        for (const Metric metric : metrics) {
            const Data<float> data(size, metric);
            const Result<float> wanted = cuda_search(data);
            for (const Card& card : {Card{3, 96 << 10, 86}, Card{3, 64 << 10, 75}, Card{132, 232448, 90}}) {
                compare_with_loops<float>(size, metric, Layout::channels_first, Precision::fp32, card);
                const Result<float> result = cuda_search(data, Precision::fp32, card);
                EXPECT(result.value.same_bits(wanted.value) && result.patch.same_bits(wanted.patch), "%s",
                       describe(size).c_str());
            }
            for (const Precision precision : {Precision::tf32, Precision::bf16}) {
                const Result<float> rounded = cuda_search(data, precision);
                for (const Card& card : {Card{3, 96 << 10, 86}, Card{132, 232448, 90}})
                    EXPECT(cuda_search(data, precision, card).patch.same_bits(rounded.patch), "%s",
                           describe(size).c_str());
            }
        }
}

template <typename T>
void the_map_equals_the_loops() {
    for (const Sizes& size : cuda_sizes())
        for (const Metric metric : metrics) {
            Data<T> data(size, metric, Layout::gaps);
            const Guarded<T> all = cuda_map(data);
            const double tolerance = sizeof(T) == 8 ? 1e-12 : 3e-6;
            for (int64_t i = 0; i < size.images * size.prototypes * data.positions(); ++i) {
                const int64_t pair = i / data.positions();
                const int64_t b = pair / size.prototypes, k = pair % size.prototypes, n = i % data.positions();
                const double expected = data.distance(b, k, n);
                EXPECT(std::abs(all[i] - expected) <= tolerance * data.size_of(b, k, n), "%s: %g, loops %g",
                       describe(size).c_str(), double(all[i]), expected);
            }
        }
}

// Images of few kinds of patches, where nearly all pairs are ties: the first of the best kind.
template <typename T>
void equal_patches_give_the_first(Precision precision) {
    for (const Metric metric : metrics)
        for (const Sizes size :
             {Sizes{2, 37, 6, 7, 20, 1, 1}, Sizes{1, 5, 12, 9, 10, 2, 3}, Sizes{1, 16, 1, 200, 6, 1, 1}})
            for (const int64_t kinds : {1, 5}) {
                Data<T> data(size, metric);
                data.repeat(kinds);
                const Result<T> result = cuda_search(data, precision);
                for (int64_t b = 0; b < size.images; ++b)
                    for (int64_t k = 0; k < size.prototypes; ++k) {
                        const int64_t pair = b * size.prototypes + k;
                        const double found = data.distance(b, k, result.patch[pair]);
                        int64_t first = 0;
                        while (data.distance(b, k, first) != found) ++first;
                        EXPECT(result.patch[pair] == first, "%s, %ld kinds: patch %ld, first %ld",
                               describe(size).c_str(), long(kinds), long(result.patch[pair]), long(first));
                    }
            }
}

template <typename T>
void what_is_not_finite_gives_nan(Precision precision) {
    const T inf = std::numeric_limits<T>::infinity();
    for (const Metric metric : metrics)
        for (const T bad : {std::numeric_limits<T>::quiet_NaN(), inf, -inf}) {
            Data<T> data({3, 17, 5, 4, 51, 1, 1}, metric);
            const Result<T> clean = cuda_search(data, precision);
            data.x(1, 16, 2, 3) = bad;
            data.x(1, 3, 4, 0) = bad;
            data.p(50, 16, 0, 0) = bad;
            const Result<T> result = cuda_search(data, precision);
            const Guarded<T> all = cuda_map(data);
            for (int64_t b = 0; b < 3; ++b)
                for (int64_t k = 0; k < 51; ++k) {
                    const int64_t pair = b * 51 + k;
                    for (int64_t n = 0; n < 20; ++n)
                        EXPECT(std::isnan(all[pair * 20 + n]) == (k == 50 || (b == 1 && (n == 11 || n == 16))), "map");
                    if (b != 1 && k != 50) {
                        EXPECT(result.value[pair] == clean.value[pair] && result.patch[pair] == clean.patch[pair],
                               "image %ld prototype %ld", long(b), long(k));
                        continue;
                    }
                    EXPECT(std::isnan(result.value[pair]) && std::isnan(result.activation[pair]), "%g",
                           double(result.value[pair]));
                    EXPECT(result.patch[pair] == (k == 50 ? 0 : 11), "%ld", long(result.patch[pair]));
                }
        }
}

template <typename T>
void finite_values_of_any_size_work() {
    const double largest = sizeof(T) == 8 ? 1e150 : 1e18;
    for (const Metric metric : metrics)
        for (const double scale : {1e-44, 1e-38, 1e-25, 1e-10, 1e10, largest}) {
            if (metric == Metric::cosine && scale < 1e-30) continue;  // shorter than what has a direction
            Data<T> data({1, 30, 4, 4, 35, 1, 1}, metric);
            for (T& value : data.features) value = static_cast<T>(value * scale);
            for (T& value : data.prototypes) value = static_cast<T>(value * scale);
            const Result<T> result = cuda_search(data);
            const Guarded<T> all = cuda_map(data);
            for (int64_t k = 0; k < 35; ++k) {
                T least = all[k * 16];
                for (int64_t n = 0; n < 16; ++n) least = std::min(least, all[k * 16 + n]);
                EXPECT(std::abs(all[k * 16 + result.patch[k]] - least) <= 1e-6 * std::abs(least), "scale %g", scale);
                EXPECT(std::abs(result.value[k] - least) <= 1e-6 * std::abs(least), "scale %g: %g, map %g", scale,
                       double(result.value[k]), double(least));
            }
        }
}

// Half inputs in a precision that holds them: the patch is decided exactly, ties included.
void products_of_halves_are_exact() {
    const struct {
        DType dtype;
        Precision precision;
    } kinds[] = {
        {DType::bfloat16, Precision::bf16}, {DType::bfloat16, Precision::tf32}, {DType::float16, Precision::tf32}};
    for (const auto& kind : kinds)
        for (const Metric metric : metrics)
            for (const Sizes size : {Sizes{2, 75, 7, 7, 33, 1, 1}, Sizes{1, 6, 12, 13, 9, 2, 2}}) {
                Data<float> data(size, metric);
                const auto halves = [&](std::vector<float>& values) {
                    std::vector<uint16_t> bits;
                    for (float& value : values) {
                        value = std::round(value * 4) / 4 + 8;
                        bits.push_back(kind.dtype == DType::float16
                                           ? emulator::half_of_float(value)
                                           : static_cast<uint16_t>(emulator::bit_cast<uint32_t>(value) >> 16));
                    }
                    return bits;
                };
                const std::vector<uint16_t> features = halves(data.features), prototypes = halves(data.prototypes);
                const Result<float> wanted = cuda_search(data);
                data.problem.features.data = features.data();
                data.problem.prototypes.data = prototypes.data();
                data.problem.features.dtype = data.problem.prototypes.dtype = kind.dtype;
                const Result<float> result = cuda_search(data, kind.precision);
                EXPECT(result.value.same_bits(wanted.value) && result.patch.same_bits(wanted.patch), "%s",
                       describe(size).c_str());
            }
}

void what_overflows_is_infinite() {
    Data<float> data({1, 3, 2, 2, 2, 1, 1}, Metric::sqeuclidean);
    for (float& value : data.features) value = 1e30f;
    for (int64_t d = 0; d < 3; ++d) data.p(0, d, 0, 0) = -1e30f, data.p(1, d, 0, 0) = 1e30f;
    const Result<float> result = cuda_search(data);
    EXPECT(result.value[0] == INFINITY && result.patch[0] == 0, "%g", double(result.value[0]));
    EXPECT(result.value[1] == 0 && result.patch[1] == 0, "%g", double(result.value[1]));
}

template <typename T>
void every_activation() {
    const Data<T> data({2, 9, 3, 4, 7, 1, 1}, Metric::cosine);
    for (const Activation kind :
         {Activation::linear, Activation::exponential, Activation::cosine, Activation::exponential_of_root}) {
        const Result<T> result = cuda_search(data, Precision::fp32, {}, kind);
        for (int64_t i = 0; i < 14; ++i) {
            const double d = result.value[i];
            const double expected = similarity_at({kind, 1}, d);
            EXPECT(std::abs(result.activation[i] - expected) <= 1e-6, "%g", double(result.activation[i]));
        }
    }
    const Result<T> none = cuda_search(data, Precision::fp32, {}, Activation::none);
    for (int64_t i = 0; i < 14; ++i) EXPECT(std::isnan(none.activation[i]), "written");
}

void empty_problems_write_nothing() {
    const Data<float> no_images({0, 4, 3, 3, 5, 1, 1}, Metric::sqeuclidean);
    const Data<float> no_prototypes({2, 4, 3, 3, 0, 1, 1}, Metric::cosine);
    cuda_search(no_images), cuda_map(no_images), cuda_search(no_prototypes), cuda_map(no_prototypes);
}

// Every 7th bit pattern and all around the borders.
void halves_are_widened_exactly() {
    std::vector<uint16_t> patterns;
    for (int i = 0; i < 1 << 16; i += (i & 0x3ff) < 8 ? 1 : 7) patterns.push_back(static_cast<uint16_t>(i));
    const std::vector<int64_t> patches(patterns.size(), 0);
    half_precision_is_widened_exactly(patterns,
                                      [&](const Problem& problem) { return cuda_at<float>(problem, patches.data()); });
}

void positions_outside_the_grid_give_nan() {
    const Data<float> data({1, 3, 2, 2, 3, 1, 1}, Metric::sqeuclidean);
    const int64_t patch[] = {4, -1, int64_t(1) << 32};
    const Guarded<float> distance = cuda_at<float>(data.problem, patch);
    for (int64_t k = 0; k < 3; ++k) EXPECT(std::isnan(distance[k]), "%g", double(distance[k]));
}

void a_failed_launch_is_told() {
    const Data<float> data({1, 3, 2, 2, 3, 1, 1}, Metric::sqeuclidean);
    emulator::launch_error = 1;
    std::string message;
    try {
        cuda_search(data);
    } catch (const std::runtime_error& error) {
        message = error.what();
    }
    EXPECT(message == "CUDA: the launch of kernel centre: an error that the test made", "%s", message.c_str());
}

template <typename T>
void all_of() {
    many_problems<T>();
    the_map_equals_the_loops<T>();
    for (const Precision precision : precisions) {
        const auto search = [=](const Data<T>& data) { return cuda_search(data, precision); };
        zero_vectors_have_cosine_distance_one<T>(search);
        if (sizeof(T) == 8 && precision != Precision::fp32) continue;
        equal_patches_give_the_first<T>(precision);
        exact_copies_are_found<T>(search, 0, precision != Precision::fp32);
        what_is_not_finite_gives_nan<T>(precision);
        if (precision != Precision::fp32) continue;
        for (const double offset : {10.0, 1000.0}) exact_copies_are_found<T>(search, offset);
    }
    finite_values_of_any_size_work<T>();
    every_activation<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        every_kind_of_card();
        products_of_halves_are_exact();
        what_overflows_is_infinite();
        empty_problems_write_nothing();
        halves_are_widened_exactly();
        positions_outside_the_grid_give_nan();
        a_failed_launch_is_told();
    });
}
