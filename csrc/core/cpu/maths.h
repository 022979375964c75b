// Logarithms and exponentials, and with them the similarity of a distance, elementwise. Plain loops that the compiler
// turns into the instruction set of the file.
#pragma once

#include <cstdint>
#include <cstring>

#include "similarity.h"

namespace {

using protokern::Activation;

inline double log_plus_one(double x) { return __builtin_log1p(x); }
inline double exponential(double x) { return __builtin_exp(x); }

// log(x) for x = mantissa * 2^exponent with the mantissa in [sqrt(1/2), sqrt(2)); coefficients of Cephes logf (S.
// Moshier). Within 1 ulp for normal x; 0 and subnormals do not occur here (x is at least 1 for epsilon <= 1).
inline float natural_log(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int32_t shifted = bits - 0x3f3504f3;
    const float exponent = static_cast<float>(shifted >> 23);
    bits -= shifted & static_cast<int32_t>(0xff800000u);
    float m;
    std::memcpy(&m, &bits, sizeof m);
    m -= 1.0f;
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    const float square = m * m;
    y = y * m * square - 2.12194440e-4f * exponent - 0.5f * square;
    const float result = (m + y) + 0.693359375f * exponent;
    const float positive = x > 0.0f ? result : (x == 0.0f ? -__builtin_inff() : __builtin_nanf(""));
    return x < __builtin_inff() ? positive : x;  // inf and NaN stay what they are
}

// log(1 + x), with what the sum rounds away added back: small x keep all their digits.
inline float log_plus_one(float x) {
    const float sum = 1.0f + x;
    const float lost = x < 1.0f ? x - (sum - 1.0f) : 1.0f - (sum - x);
    return sum < __builtin_inff() ? natural_log(sum) + lost / sum : sum;
}

inline float exponential(float x) { return __builtin_expf(x); }

// e^x for x <= 0, within 2 ulp; 0 below the range of normal numbers. Coefficients of Cephes expf (S. Moshier).
inline float exponential_of_negative(float x) {
    constexpr float round = 12582912.0f;  // adding it leaves an integer in the low bits
    const float clamped = x > -87.0f ? x : -87.0f;
    const float shifted = clamped * 1.44269504f + round;
    const float power = shifted - round;
    const float r = (clamped - power * 0.693359375f) + power * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000 + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    const float below = x == x ? 0.0f : x;
    return x > -87.0f ? y * scale : below;
}

inline double exponential_of_negative(double x) { return __builtin_exp(x); }

struct Maths {
    template <typename T>
    static T log_plus_one(T x) {
        return ::log_plus_one(x);
    }
    template <typename T>
    static T exponential(T x) {
        return ::exponential(x);
    }
    static float root(float x) { return __builtin_sqrtf(x); }
    static double root(double x) { return __builtin_sqrt(x); }
    template <typename T>
    static T slope_of_log(T distance, T epsilon) {
        return (epsilon - T(1)) / ((distance + T(1)) * (distance + epsilon));
    }
    template <typename T>
    static T constant(T, T value) {
        return value;
    }
};

// For many distances at a time.
struct TileMaths : Maths {
    template <typename T>
    static T exponential(T x) {
        return exponential_of_negative(x);
    }
};

template <typename T>
void activate(Activation kind, double epsilon, const T* distance, T* activation, int64_t count) {
    const T offset = static_cast<T>(epsilon);
    const T step = static_cast<T>(1 - epsilon);
    protokern::with_similarity<Maths>(kind, [&](auto similarity) {
        for (int64_t i = 0; i < count; ++i) activation[i] = similarity.value(distance[i], offset, step);
    });
}

}  // namespace
