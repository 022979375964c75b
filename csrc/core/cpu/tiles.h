// Tiles of distances and what is made of them. Prototypes lie in SIMD lanes and positions in rows, as in search.h;
// every distance is one chain of multiply-adds, and every sum over positions, lanes or images has one order.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "maths.h"
#include "tile_types.h"

namespace {

using protokern::cpu::TileActivations;
using protokern::cpu::TileBest;
using protokern::cpu::TileDistances;
using protokern::cpu::TileProduct;
using protokern::cpu::TileWeights;

template <typename V>
struct Tiles {
    using T = typename V::Scalar;
    using Value = typename V::Value;
    static constexpr int lanes = V::columns * V::width;

    template <int R>
    static void distance_block(const TileDistances<T>& a, int64_t begin) {
        constexpr int C = V::columns;
        Value dot[R][C];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) dot[r][c] = V::zero();
        const T* panel = static_cast<const T*>(a.panel);
        for (int64_t s = 0; s < a.segments; ++s) {
            const T* x[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) x[r] = a.pixels + a.row[begin + r] + a.segment[s];
            for (int64_t d = 0; d < a.padded_depth; ++d, panel += lanes) {
                Value prototype[C];
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) prototype[c] = V::load(panel + c * V::width);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    const Value value = V::set(x[r][d]);
#pragma GCC unroll 4
                    for (int c = 0; c < C; ++c) dot[r][c] = V::fma(value, prototype[c], dot[r][c]);
                }
            }
        }
        const Value closeness = V::set(a.closeness);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Value bias = V::set(a.row_bias[begin + r]);
            const Value scale = V::set(a.row_scale[begin + r]);
            uint64_t close = 0;
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) {
                const Value lane_bias = V::load(a.lane_bias + c * V::width);
                const Value distance = V::add(V::fma(dot[r][c], scale, bias), lane_bias);
                const Value limit = V::mul(closeness, V::add(bias, lane_bias));
                close |= static_cast<uint64_t>(V::not_at_least(distance, limit)) << (c * V::width);
                V::store(a.distance + (begin + r) * lanes + c * V::width, distance);
            }
            a.close[begin + r] = close;
        }
    }

    template <int R>
    static void distance_dispatch(int64_t size, const TileDistances<T>& a, int64_t begin) {
        if (size == R) return distance_block<R>(a, begin);
        if constexpr (R > 1) distance_dispatch<R - 1>(size, a, begin);
    }

    static void distances(const TileDistances<T>& a) {
        const int64_t blocks = (a.rows + V::rows - 1) / V::rows;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t begin = b * a.rows / blocks;
            distance_dispatch<V::rows>((b + 1) * a.rows / blocks - begin, a, begin);
        }
    }

    // log((d + 1) / (d + epsilon)) = log(1 + y) with y = (1 - epsilon) / (d + epsilon). For several distances the
    // product of the 1 + y, less 1, is kept as a fraction: (1 + n / m)(1 + y) - 1 = (n (d + 1) + (1 - epsilon) m) / (m
    // (d + epsilon)). For epsilon <= 1 no term is negative, so nothing cancels; one division and one logarithm serve
    // them all.
    static void add_logs(const TileActivations<T>& a, T* sum) {
        const Value one = V::set(T(1));
        const Value offset = V::set(a.epsilon);
        const Value step = V::set(T(1) - a.epsilon);
        for (int64_t begin = 0; begin < a.rows; begin += a.group) {
            const int64_t end = begin + a.group < a.rows ? begin + a.group : a.rows;
            alignas(64) T numerators[lanes];
            alignas(64) T denominators[lanes];
#pragma GCC unroll 4
            for (int c = 0; c < V::columns; ++c) {
                const T* distance = a.distance + c * V::width;
                Value numerator = step;
                Value denominator = V::add(V::load(distance + begin * lanes), offset);
                for (int64_t r = begin + 1; r < end; ++r) {
                    const Value d = V::load(distance + r * lanes);
                    numerator = V::fma(numerator, V::add(d, one), V::mul(step, denominator));
                    denominator = V::mul(denominator, V::add(d, offset));
                }
                V::store(numerators + c * V::width, numerator);
                V::store(denominators + c * V::width, denominator);
            }
            for (int lane = 0; lane < lanes; ++lane) sum[lane] += log_plus_one(numerators[lane] / denominators[lane]);
        }
    }

    static void add(protokern::Log<TileMaths>, const TileActivations<T>& a, T* sum) { add_logs(a, sum); }

    template <class Similarity>
    static void add(Similarity, const TileActivations<T>& a, T* sum) {
        const T step = T(1) - a.epsilon;
        const T* distance = a.distance;
        for (int64_t r = 0; r < a.rows; ++r, distance += lanes)
            for (int lane = 0; lane < lanes; ++lane) sum[lane] += Similarity::value(distance[lane], a.epsilon, step);
    }

    static void add_activations(const TileActivations<T>& a) {
        alignas(64) T sum[lanes] = {};  // of this tile alone: short sums lose less
        protokern::with_similarity<TileMaths>(a.kind, [&](auto similarity) { add(similarity, a, sum); });
        for (int lane = 0; lane < lanes; ++lane) a.sum[lane] += sum[lane];
    }

    // Negated after the exponential, not before: NaN keeps its sign.
    static void weigh_row(protokern::Exponential<TileMaths>, const TileWeights<T>& a, T* row) {
        for (int lane = 0; lane < lanes; ++lane) row[lane] = exponential_of_negative(-row[lane]);
        for (int lane = 0; lane < lanes; ++lane) row[lane] *= -a.grad[lane];
    }

    template <class Similarity>
    static void weigh_row(Similarity, const TileWeights<T>& a, T* row) {
        for (int lane = 0; lane < lanes; ++lane) row[lane] = a.grad[lane] * Similarity::slope(row[lane], a.epsilon);
    }

    static void weigh(const TileWeights<T>& a) {
        protokern::with_similarity<TileMaths>(a.kind, [&](auto similarity) {
            for (int64_t r = 0; r < a.rows; ++r) weigh_row(similarity, a, a.tile + r * lanes);
        });
    }

    template <int R, int C>
    static void product_block(const TileProduct<T>& a, int64_t i, int64_t d) {
        Value sum[R][C];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) sum[r][c] = V::load(a.out + (i + r) * a.out_stride + d + c * V::width);
        const T* factor = a.factor + i * a.factor_stride;
        for (int64_t j = 0; j < a.terms; ++j, factor += a.factor_step) {
            const T* other = a.other[j] + d;
            Value value[C];
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) value[c] = V::load(other + c * V::width);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const Value weight = V::set(factor[r * a.factor_stride]);
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) sum[r][c] = V::fma(weight, value[c], sum[r][c]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) V::store(a.out + (i + r) * a.out_stride + d + c * V::width, sum[r][c]);
    }

    template <int R>
    static void product_rows(int64_t size, const TileProduct<T>& a, int64_t i) {
        if (size == R) {
            int64_t d = 0;
            for (; d + V::columns * V::width <= a.padded_depth; d += V::columns * V::width)
                product_block<R, V::columns>(a, i, d);
            if constexpr (V::columns > 2)
                for (; d + 2 * V::width <= a.padded_depth; d += 2 * V::width) product_block<R, 2>(a, i, d);
            for (; d < a.padded_depth; d += V::width) product_block<R, 1>(a, i, d);
            return;
        }
        if constexpr (R > 1) product_rows<R - 1>(size, a, i);
    }

    static void add_product(const TileProduct<T>& a) {
        const int64_t blocks = (a.rows + V::rows - 1) / V::rows;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t begin = b * a.rows / blocks;
            product_rows<V::rows>((b + 1) * a.rows / blocks - begin, a, begin);
        }
    }

    static void keep_best(const TileBest<T>& a) {
        for (int64_t r = 0; r < a.rows; ++r)
            for (int c = 0; c < V::columns; ++c) {
                Value score = V::load(a.score + r * lanes + c * V::width);
                const int64_t last = (a.slots - 1) * lanes + c * V::width;
                if (V::not_at_least(score, V::load(a.best + last)) == 0) continue;
                auto number = V::set_number(static_cast<typename V::Index>(a.first + r));
                for (int64_t at = c * V::width; at <= last; at += lanes) {
                    Value best = V::load(a.best + at);
                    auto index = V::load_number(a.index + at);
                    V::put_smaller_first(best, index, score, number);
                    V::store(a.best + at, best);
                    V::store_number(a.index + at, index);
                }
            }
    }
};

template <typename V>
constexpr protokern::cpu::TileKernels<typename V::Scalar> make_tiles() {
    return {make_kernels<V>(), Tiles<V>::distances,   Tiles<V>::add_activations,
            Tiles<V>::weigh,   Tiles<V>::add_product, Tiles<V>::keep_best};
}

}  // namespace
