// The search: score of every position for one panel of prototypes, reduced to best, runner-up and position on the fly.
//
// Prototypes lie in SIMD lanes and positions in rows, so the minimum over positions never crosses lanes. A panel is
// packed [S * padded D][lanes]; patches are read in place, one broadcast per value and row. Every score is one chain of
// multiply-adds in the order (segment, depth), whatever the row's place in a block: equal patches get equal scores, bit
// for bit.
#pragma once

#include <cstdint>

#include "types.h"

namespace {

using protokern::cpu::PatchRows;
using protokern::cpu::SearchState;

template <typename V>
struct Search {
    using T = typename V::Scalar;
    using Index = typename V::Index;
    using Value = typename V::Value;
    static constexpr int lanes = V::columns * V::width;

    static int64_t panel_bytes(int64_t padded_length) {
        return padded_length * lanes * static_cast<int64_t>(sizeof(T));
    }

    static void pack_panel(const T* rows, int64_t row_stride, int64_t count, int64_t padded_length, void* panel) {
        T* out = static_cast<T*>(panel);
        for (int64_t k = 0; k < padded_length; ++k, out += lanes) {
            for (int64_t p = 0; p < count; ++p) out[p] = rows[p * row_stride + k];
            for (int64_t p = count; p < lanes; ++p) out[p] = T(0);
        }
    }

    // One block of `R` positions against the whole panel.
    template <int R>
    static void block(const PatchRows<T>& patches, const T* const* row, const T* bias, const T* scale, Index first,
                      const T* panel, T* best, T* second, Index* index) {
        constexpr int C = V::columns;
        Value dot[R][C];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) dot[r][c] = V::zero();
        for (int64_t s = 0; s < patches.segments; ++s) {
            const T* x[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) x[r] = row[r] + patches.segment[s];
            for (int64_t d = 0; d < patches.padded_depth; ++d, panel += lanes) {
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
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            Value smallest = V::load(best + c * V::width);
            Value runner_up = V::load(second + c * V::width);
            typename V::Number where = V::load_number(index + c * V::width);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const Value score = V::fma(dot[r][c], V::set(scale[r]), V::set(bias[r]));
                V::keep_smaller(score, V::set_number(first + r), smallest, runner_up, where);
            }
            V::store(best + c * V::width, smallest);
            V::store(second + c * V::width, runner_up);
            V::store_number(index + c * V::width, where);
        }
    }

    template <int R>
    static void dispatch(int64_t size, const PatchRows<T>& patches, const T* const* row, const T* bias, const T* scale,
                         Index first, const T* panel, T* best, T* second, Index* index) {
        if (size == R) return block<R>(patches, row, bias, scale, first, panel, best, second, index);
        if constexpr (R > 1) dispatch<R - 1>(size, patches, row, bias, scale, first, panel, best, second, index);
    }

    static void run(const PatchRows<T>& patches, const void*, const void* panel, const SearchState<T>& state) {
        // Blocks of nearly equal size: 49 positions are 7 x 7, never 6 x 8 and a slow 1.
        const int64_t blocks = (patches.rows + V::rows - 1) / V::rows;
        for (int64_t image = 0; image < patches.images; ++image) {
            const T* pixels = patches.pixels + image * patches.image_stride;
            const T* bias = patches.bias + image * patches.rows;
            const T* scale = patches.scale + image * patches.rows;
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t begin = b * patches.rows / blocks;
                const int64_t end = (b + 1) * patches.rows / blocks;
                const T* row[V::rows];
                for (int64_t n = begin; n < end; ++n) row[n - begin] = pixels + patches.row[n];
                dispatch<V::rows>(end - begin, patches, row, bias + begin, scale + begin,
                                  static_cast<Index>(patches.first + begin), static_cast<const T*>(panel),
                                  state.best + image * lanes, state.second + image * lanes,
                                  state.index + image * lanes);
            }
        }
    }

    static int64_t row_bytes(int64_t, int64_t) { return 0; }
    static void pack_rows(const PatchRows<T>&, void*) {}
};

}  // namespace
