// What the tests compare with: random problems, and the ops as plain loops in double. Shares no code with the core.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core.h"
#include "instruction_sets.h"

namespace naive {

using namespace protokern::cpu;

inline int failures = 0;

#define EXPECT(condition, ...)                                          \
    do {                                                                \
        if (!(condition)) {                                             \
            ++naive::failures;                                          \
            std::printf("%s:%d: %s  ", __FILE__, __LINE__, #condition); \
            std::printf(__VA_ARGS__);                                   \
            std::printf("\n");                                          \
        }                                                               \
    } while (false)

// 77 tells ctest to skip.
inline int finish(void (*tests)()) {
    try {
        chosen_instructions();
    } catch (const std::runtime_error& error) {
        std::printf("skipped: %s\n", error.what());
        return 77;
    }
    std::printf("instruction set %s\n", chosen_instructions().name);
    tests();
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}

inline Executor serial() {
    return {1, [](int workers, void (*body)(void*, int64_t), void* context) {
                for (int worker = 0; worker < workers; ++worker) body(context, worker);
            }};
}

inline Executor threads(int workers) {
    return {workers, [](int count, void (*body)(void*, int64_t), void* context) {
                std::vector<std::thread> running;
                for (int worker = 0; worker < count; ++worker) running.emplace_back(body, context, worker);
                for (std::thread& thread : running) thread.join();
            }};
}

struct Sizes {
    int64_t images, depth, height, width, prototypes, patch_height, patch_width;
};

constexpr Metric metrics[] = {Metric::sqeuclidean, Metric::cosine, Metric::dot};
// Of differences: 0 at a copy, and a mean that is no closed form.
constexpr Metric differences[] = {Metric::sqeuclidean, Metric::cosine};

enum class Layout { channels_first, channels_last, gaps, one_image };

// Features and prototypes with their memory; values of type T (float or double).
template <typename T>
struct Data {
    Sizes size;
    Problem problem;
    std::vector<T> features, prototypes;

    Data(Sizes size, Metric metric, Layout layout = Layout::channels_first, uint32_t seed = 0) : size(size) {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        const auto& [B, D, H, W, P, h, w] = size;
        const DType dtype = sizeof(T) == 8 ? DType::float64 : DType::float32;
        problem = {
            {nullptr, dtype, {B, D, H, W}, {}}, {nullptr, dtype, {P, D, h, w}, {D * h * w, h * w, w, 1}}, metric};
        const int64_t step = layout == Layout::gaps ? 2 : 1;
        int64_t* stride = problem.features.stride;
        if (layout == Layout::channels_last) {
            stride[0] = H * W * D, stride[1] = 1, stride[2] = W * D, stride[3] = D;
        } else {
            stride[3] = step, stride[2] = W * step + step - 1, stride[1] = H * stride[2], stride[0] = D * stride[1];
        }
        features.resize(B * D * H * (W + 1) * 2 * step);
        prototypes.resize(P * D * h * w);
        for (T& value : features) value = static_cast<T>(normal(random));
        for (T& value : prototypes) value = static_cast<T>(normal(random) * 0.5 + 0.2);
        // To the last value and no further, so that a sanitizer sees what is read behind it.
        features.resize((B - 1) * stride[0] + (D - 1) * stride[1] + (H - 1) * stride[2] + (W - 1) * stride[3] + 1);
        features.shrink_to_fit();
        if (layout == Layout::one_image) stride[0] = 0;
        bind();
    }
    void bind() {
        problem.features.data = features.data();
        problem.prototypes.data = prototypes.data();
    }
    int64_t rows() const { return size.height - size.patch_height + 1; }
    int64_t columns() const { return size.width - size.patch_width + 1; }
    int64_t positions() const { return rows() * columns(); }

    T& x(int64_t b, int64_t d, int64_t r, int64_t c) {
        const int64_t* s = problem.features.stride;
        return features[b * s[0] + d * s[1] + r * s[2] + c * s[3]];
    }
    T& p(int64_t k, int64_t d, int64_t i, int64_t j) {
        const int64_t* s = problem.prototypes.stride;
        return prototypes[k * s[0] + d * s[1] + i * s[2] + j * s[3]];
    }
    // Value (d, i, j) of the patch at a position.
    T& patch(int64_t b, int64_t n, int64_t d, int64_t i, int64_t j) {
        return x(b, d, n / columns() + i, n % columns() + j);
    }

    // Makes every image one of few kinds of pixels, so that nearly all pairs are ties.
    void repeat(int64_t kinds) {
        for (int64_t b = 0; b < size.images; ++b)
            for (int64_t d = 0; d < size.depth; ++d)
                for (int64_t r = 0; r < size.height; ++r)
                    for (int64_t c = 0; c < size.width; ++c) x(b, d, r, c) = x(b, d, 0, (r * 3 + c) % kinds);
    }

    double distance(int64_t b, int64_t k, int64_t n) {
        double lengths;
        return distance(b, k, n, lengths);
    }
    // What the rounding of a distance, or of a search for it, is relative to.
    double size_of(int64_t b, int64_t k, int64_t n) {
        double lengths;
        const double d = distance(b, k, n, lengths);
        return 1 + (problem.metric == Metric::dot ? lengths : d);
    }
    double distance(int64_t b, int64_t k, int64_t n, double& lengths) {
        double squares = 0, xx = 0, pp = 0, dot = 0;
        for (int64_t d = 0; d < size.depth; ++d)
            for (int64_t i = 0; i < size.patch_height; ++i)
                for (int64_t j = 0; j < size.patch_width; ++j) {
                    const double a = patch(b, n, d, i, j), c = p(k, d, i, j);
                    squares += (a - c) * (a - c), xx += a * a, pp += c * c, dot += a * c;
                }
        lengths = std::sqrt(xx * pp);
        if (problem.metric == Metric::sqeuclidean) return squares;
        if (problem.metric == Metric::dot) return -dot;
        return xx == 0 || pp == 0 ? 1 : 1 - dot / std::sqrt(xx) / std::sqrt(pp);
    }
};

// Outputs with guards on both sides, filled with NaN and -7 so that an unwritten element shows.
template <typename T>
struct Guarded {
    static constexpr int64_t guard = 32;
    std::vector<T> memory;
    T poison;

    Guarded(int64_t count, T poison) : memory(count + 2 * guard, poison), poison(poison) {}
    T* data() { return memory.data() + guard; }
    T operator[](int64_t i) const { return memory[guard + i]; }
    int64_t size() const { return static_cast<int64_t>(memory.size()) - 2 * guard; }
    bool intact() const {
        for (int64_t i = 0; i < guard; ++i)
            if (std::memcmp(&memory[i], &poison, sizeof(T)) != 0 ||
                std::memcmp(&memory[memory.size() - 1 - i], &poison, sizeof(T)) != 0)
                return false;
        return true;
    }
    bool same_bits(const Guarded& other) const {
        return std::memcmp(memory.data(), other.memory.data(), memory.size() * sizeof(T)) == 0;
    }
};

template <typename T>
struct Result {
    Guarded<T> value, activation;
    Guarded<int64_t> patch;

    explicit Result(int64_t pairs)
        : value(pairs, std::numeric_limits<T>::quiet_NaN()),
          activation(pairs, std::numeric_limits<T>::quiet_NaN()),
          patch(pairs, -7) {}
};

// A similarity for the distances of a metric.
inline Activation fitting(Metric metric) { return metric == Metric::dot ? Activation::linear : Activation::log; }

template <typename T>
Result<T> search(const Data<T>& data, const Executor& executor = serial()) {
    const Activation kind = fitting(data.problem.metric);
    Result<T> result(data.size.images * data.size.prototypes);
    min_distance(data.problem, {result.value.data(), result.patch.data(), result.activation.data(), kind, 1e-4},
                 executor);
    EXPECT(result.value.intact() && result.patch.intact() && result.activation.intact(), "written outside");
    return result;
}

template <typename T>
Guarded<T> map(const Data<T>& data, const Executor& executor = serial()) {
    Guarded<T> out(data.size.images * data.size.prototypes * data.positions(), std::numeric_limits<T>::quiet_NaN());
    distance_map(data.problem, out.data(), executor);
    EXPECT(out.intact(), "written outside");
    return out;
}

inline std::string describe(const Sizes& s) {
    char text[120];
    std::snprintf(text, sizeof text, "B%ld D%ld H%ld W%ld P%ld h%ld w%ld", long(s.images), long(s.depth),
                  long(s.height), long(s.width), long(s.prototypes), long(s.patch_height), long(s.patch_width));
    return text;
}

// Sizes 1, primes, just below and above the blocks of the kernels, images cut into parts, patches of several pixels.
inline std::vector<Sizes> many_sizes() {
    return {{1, 1, 1, 1, 1, 1, 1},   {2, 3, 5, 7, 11, 1, 1},  {3, 16, 7, 7, 33, 1, 1},   {1, 17, 1, 13, 49, 1, 1},
            {5, 31, 3, 3, 97, 1, 1}, {2, 64, 4, 8, 48, 1, 1}, {1, 128, 60, 50, 5, 1, 1}, {40, 5, 2, 2, 20, 1, 1},
            {2, 12, 5, 6, 19, 2, 3}, {1, 3, 3, 3, 4, 3, 3},   {1, 40, 30, 31, 9, 2, 2},  {2, 1, 9, 4, 7, 1, 4}};
}

}  // namespace naive
