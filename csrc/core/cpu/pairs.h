// Work on single pairs of a patch and a prototype: the distance in difference form, and sums of differences for gradients.
#pragma once

#include <cstdint>

#include "types.h"

namespace {

using protokern::cpu::Accumulate;
using protokern::cpu::Metric;
using protokern::cpu::PairDistance;

template <typename V>
struct Pairs {
    using T = typename V::Scalar;
    using Value = typename V::Value;

    static Value squared_differences(const PairDistance<T>& a, int64_t j) {
        Value sum = V::zero();
        for (int64_t s = 0; s < a.segments; ++s) {
            const T* patch = a.patch[j] + a.segment[s];
            const T* prototype = a.prototype[j] + s * a.padded_depth;
            for (int64_t d = 0; d < a.padded_depth; d += V::width) {
                const Value difference = V::sub(V::load(patch + d), V::load(prototype + d));
                sum = V::fma(difference, difference, sum);
            }
        }
        return sum;
    }

    // Both vectors are scaled, each product rounded, before the difference: equal vectors give exactly 0.
    static Value scaled_squared_differences(const PairDistance<T>& a, int64_t j) {
        Value sum = V::zero();
        const Value patch_scale = V::set(a.patch_inverse_norm[j]);
        const Value prototype_scale = V::set(a.prototype_inverse_norm[j]);
        for (int64_t s = 0; s < a.segments; ++s) {
            const T* patch = a.patch[j] + a.segment[s];
            const T* prototype = a.prototype[j] + s * a.padded_depth;
            for (int64_t d = 0; d < a.padded_depth; d += V::width) {
                const Value difference = V::sub(V::mul(V::load(patch + d), patch_scale),
                                                V::mul(V::load(prototype + d), prototype_scale));
                sum = V::fma(difference, difference, sum);
            }
        }
        return sum;
    }

    static void distance(const PairDistance<T>& a) {
        if (a.metric == Metric::sqeuclidean) {
            for (int64_t j = 0; j < a.count; ++j) a.distance[j] = V::sum(squared_differences(a, j));
            return;
        }
        for (int64_t j = 0; j < a.count; ++j) {
            const bool zero = a.patch_inverse_norm[j] == T(0) || a.prototype_inverse_norm[j] == T(0);
            a.distance[j] = zero ? T(1) : T(0.5) * V::sum(scaled_squared_differences(a, j));
        }
    }

    template <bool Scaled>
    static void accumulate_columns(const Accumulate<T>& a, int64_t begin) {
        constexpr int columns = 8;
        Value sum[columns];
        Value self[columns];
#pragma GCC unroll 8
        for (int c = 0; c < columns; ++c) {
            sum[c] = V::load(a.out + begin + c * V::width);
            self[c] = V::load(a.self + begin + c * V::width);
        }
        for (int64_t j = 0; j < a.count; ++j) {
            const T* other = a.other[j] + begin;
            const Value weight = V::set(a.weight[j]);
#pragma GCC unroll 8
            for (int c = 0; c < columns; ++c) {
                const Value value = V::load(other + c * V::width);
                const Value difference = term<Scaled>(a, j, self[c], value);
                sum[c] = V::fma(weight, difference, sum[c]);
            }
        }
#pragma GCC unroll 8
        for (int c = 0; c < columns; ++c) V::store(a.out + begin + c * V::width, sum[c]);
    }

    template <bool Scaled>
    static Value term(const Accumulate<T>& a, int64_t j, Value self, Value other) {
        if constexpr (!Scaled) return V::sub(self, other);
        return V::sub(V::mul(V::set(a.self_scale[j]), self), V::mul(V::set(a.other_scale[j]), other));
    }

    template <bool Scaled>
    static void accumulate_all(const Accumulate<T>& a) {
        int64_t begin = 0;
        for (; begin + 8 * V::width <= a.padded_depth; begin += 8 * V::width) accumulate_columns<Scaled>(a, begin);
        for (; begin < a.padded_depth; begin += V::width) {
            Value sum = V::load(a.out + begin);
            const Value self = V::load(a.self + begin);
            for (int64_t j = 0; j < a.count; ++j)
                sum = V::fma(V::set(a.weight[j]), term<Scaled>(a, j, self, V::load(a.other[j] + begin)), sum);
            V::store(a.out + begin, sum);
        }
    }

    static void accumulate(const Accumulate<T>& a) {
        if (a.self_scale) accumulate_all<true>(a);
        else accumulate_all<false>(a);
    }
};

}  // namespace
