// Similarity of a distance, elementwise. Plain loops that the compiler turns into the instruction set of the file.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

namespace {

using protokern::cpu::Activation;

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

template <typename T>
void activate(Activation kind, double epsilon, const T* distance, T* activation, int64_t count) {
    const T offset = static_cast<T>(epsilon);
    const T step = static_cast<T>(1 - epsilon);
    switch (kind) {
        case Activation::none:
            return;
        case Activation::log:
            // log((d + 1) / (d + epsilon)), written so that it stays exact where the ratio is close to 1.
            for (int64_t i = 0; i < count; ++i) activation[i] = log_plus_one(step / (distance[i] + offset));
            return;
        case Activation::linear:
            for (int64_t i = 0; i < count; ++i) activation[i] = -distance[i];
            return;
        case Activation::exponential:
            for (int64_t i = 0; i < count; ++i) activation[i] = exponential(-distance[i]);
            return;
        case Activation::cosine:
            for (int64_t i = 0; i < count; ++i) activation[i] = T(1) - distance[i];
            return;
    }
}

}  // namespace
