// Work on single pairs of a patch and a prototype: the distance in difference form, and sums of differences for
// gradients.
#pragma once

#include <cstdint>

#include "types.h"

namespace {

using protokern::cpu::Accumulate;
using protokern::cpu::PairDistance;

template <typename V>
struct Pairs {
    using T = typename V::Scalar;
    using Value = typename V::Value;

    // Pairs go four at a time, which shares the cost of adding up the lanes. Unit vectors are made first, each product
    // rounded: equal vectors give exactly 0.
    template <class M>
    static void four(const PairDistance<T>& a, const int64_t* pair, T* distance) {
        Value sum[4];
        Value patch_scale[4];
        Value prototype_scale[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            sum[j] = V::zero();
            if constexpr (M::is_unit) {
                patch_scale[j] = V::set(a.patch_inverse_norm[pair[j]]);
                prototype_scale[j] = V::set(a.prototype_inverse_norm[pair[j]]);
            }
        }
        for (int64_t s = 0; s < a.segments; ++s) {
            const T* patch[4];
            const T* prototype[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                patch[j] = a.patch[pair[j]] + a.segment[s];
                prototype[j] = a.prototype[pair[j]] + s * a.padded_depth;
            }
            for (int64_t d = 0; d < a.padded_depth; d += V::width)
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) {
                    Value x = V::load(patch[j] + d);
                    Value p = V::load(prototype[j] + d);
                    if constexpr (M::is_unit) {
                        x = V::mul(x, patch_scale[j]);
                        p = V::mul(p, prototype_scale[j]);
                    }
                    sum[j] = M::template step<V>(x, p, sum[j]);
                }
        }
        V::sum4(sum, distance);
    }

    static void distance(const PairDistance<T>& a) {
        protokern::with_metric(a.metric, [&](auto metric) { distance_of<decltype(metric)>(a); });
    }

    template <class M>
    static void distance_of(const PairDistance<T>& a) {
        for (int64_t begin = 0; begin < a.count; begin += 4) {
            const int64_t count = a.count - begin < 4 ? a.count - begin : 4;
            int64_t pair[4];
            for (int64_t j = 0; j < 4; ++j) pair[j] = j < count ? begin + j : begin;
            T some[4];
            T* sum = count == 4 ? a.distance + begin : some;
            four<M>(a, pair, sum);
            for (int64_t j = 0; j < count; ++j) {
                bool has_zero = false;
                if constexpr (M::is_unit)
                    has_zero = a.patch_inverse_norm[pair[j]] == T(0) || a.prototype_inverse_norm[pair[j]] == T(0);
                a.distance[begin + j] = M::template value<V>(sum[j], has_zero);
            }
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
        if (a.self_scale)
            accumulate_all<true>(a);
        else
            accumulate_all<false>(a);
    }
};

}  // namespace
