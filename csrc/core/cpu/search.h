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

// Asks for the memory ahead in even steps, so that it arrives while the multiply-adds run and delays none of them.
class Ahead {
  public:
    template <typename T>
    Ahead(const PatchRows<T>& patches, int64_t steps) : at_(patches.ahead[0]), next_(patches.ahead[1]) {
        end_ = at_ + patches.ahead_bytes[0];
        next_end_ = next_ + patches.ahead_bytes[1];
        constexpr int64_t line = 64;
        const int64_t lines = (patches.ahead_bytes[0] + patches.ahead_bytes[1] + line - 1) / line;
        per_step_ = (lines + steps - 1) / steps;
    }
    void step() {
        for (int64_t i = 0; i < per_step_; ++i) {
            if (at_ >= end_) {
                if (next_ >= next_end_) return;
                at_ = next_, end_ = next_end_, next_ = next_end_;
            }
            __builtin_prefetch(at_, 0, 2);
            at_ += 64;
        }
    }

  private:
    const char* at_;
    const char* end_;
    const char* next_;
    const char* next_end_;
    int64_t per_step_;
};

// What a vector multiplies in a search: here its own numbers, as they are.
template <typename V>
struct PlainFactors {
    using Element = typename V::Scalar;
    using Factors = typename V::Value;
    static constexpr int64_t step = 64 / sizeof(Element);  // depths are padded to whole cache lines

    static Factors load(const Element* p) { return V::load(p); }
    static Factors set(Element x) { return V::set(x); }
    static typename V::Value multiply_add(Factors a, Factors b, typename V::Value sum) { return V::fma(a, b, sum); }
};

template <typename V, typename F = PlainFactors<V>>
struct Search {
    using T = typename V::Scalar;
    using Index = typename V::Index;
    using Value = typename V::Value;
    static constexpr int lanes = V::columns * V::width;
    using Element = typename F::Element;

    // Where the factors of a patch lie, from its first one on.
    struct Runs {
        const int64_t* segment;
        int64_t segments;
        int64_t depth;  // elements per segment, a multiple of F::step
    };

    static int64_t panel_bytes(int64_t padded_length) {
        return padded_length * lanes * static_cast<int64_t>(sizeof(T));
    }

    static void pack_panel(const T* rows, int64_t row_stride, int64_t count, int64_t padded_length, void* panel) {
        T* out = static_cast<T*>(panel);
        if constexpr (V::width == 16)
            if (count == lanes) return pack_whole_panel(rows, row_stride, padded_length, out);
        for (int64_t k = 0; k < padded_length; ++k, out += lanes) {
            for (int64_t p = 0; p < count; ++p) out[p] = rows[p * row_stride + k];
            for (int64_t p = count; p < lanes; ++p) out[p] = T(0);
        }
    }

    // The same for as many prototypes as there are lanes, in blocks of 16 x 16.
    static void pack_whole_panel(const T* rows, int64_t row_stride, int64_t padded_length, T* out) {
        alignas(64) T block[V::width][V::width];
        for (int64_t k = 0; k < padded_length; k += V::width)
            for (int64_t p = 0; p < lanes; p += V::width) {
                for (int i = 0; i < V::width; ++i) V::store(block[i], V::load(rows + (p + i) * row_stride + k));
                V::store_transposed(block, out + k * lanes + p, lanes);
            }
    }

    // One block of `R` positions against the first `C` columns of the panel.
    template <int C, int R>
    static void block(const Runs& runs, const Element* const* row, const T* bias, const T* scale, Index first,
                      const Element* panel, T* best, T* second, Index* index, Ahead& ahead) {
        Value dot[R][C];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) dot[r][c] = V::zero();
        for (int64_t s = 0; s < runs.segments; ++s) {
            const Element* x[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) x[r] = row[r] + runs.segment[s];
            for (int64_t step = 0; step < runs.depth; step += F::step) {
                ahead.step();
                for (int64_t d = step; d < step + F::step; ++d, panel += lanes) {
                    typename F::Factors prototype[C];
#pragma GCC unroll 4
                    for (int c = 0; c < C; ++c) prototype[c] = F::load(panel + c * V::width);
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) {
                        const typename F::Factors value = F::set(x[r][d]);
#pragma GCC unroll 4
                        for (int c = 0; c < C; ++c) dot[r][c] = F::multiply_add(value, prototype[c], dot[r][c]);
                    }
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

    template <int C, int R>
    static void dispatch(int64_t size, const Runs& runs, const Element* const* row, const T* bias, const T* scale,
                         Index first, const Element* panel, T* best, T* second, Index* index, Ahead& ahead) {
        if (size == R) return block<C, R>(runs, row, bias, scale, first, panel, best, second, index, ahead);
        if constexpr (R > 1) dispatch<C, R - 1>(size, runs, row, bias, scale, first, panel, best, second, index, ahead);
    }

    static void run(const PatchRows<T>& patches, const void*, const void* panel, const SearchState<T>& state) {
        const auto row = [&](int64_t image, int64_t n) {
            return patches.pixels + image * patches.image_stride + patches.row[n];
        };
        run_rows(patches, row, {patches.segment, patches.segments, patches.padded_depth},
                 static_cast<const Element*>(panel), state);
    }

    // `row(image, n)` is the first element of a patch.
    template <typename Row, int C = V::columns>
    static void run_rows(const PatchRows<T>& patches, const Row& row_of, const Runs& runs, const Element* panel,
                         const SearchState<T>& state) {
        if constexpr (C > 1)
            if (patches.prototypes <= (C - 1) * V::width)
                return run_rows<Row, C - 1>(patches, row_of, runs, panel, state);
        // Blocks of nearly equal size: 49 positions are 7 x 7, never 6 x 8 and a slow 1.
        const int64_t blocks = (patches.rows + V::rows - 1) / V::rows;
        Ahead ahead(patches, patches.images * blocks * runs.segments * (runs.depth / F::step));
        for (int64_t image = 0; image < patches.images; ++image) {
            const T* bias = patches.bias + image * patches.rows;
            const T* scale = patches.scale + image * patches.rows;
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t begin = b * patches.rows / blocks;
                const int64_t end = (b + 1) * patches.rows / blocks;
                const Element* row[V::rows];
                for (int64_t n = begin; n < end; ++n) row[n - begin] = row_of(image, n);
                dispatch<C, V::rows>(end - begin, runs, row, bias + begin, scale + begin,
                                     static_cast<Index>(patches.first + begin), panel, state.best + image * lanes,
                                     state.second + image * lanes, state.index + image * lanes, ahead);
            }
        }
    }

    static int64_t row_bytes(int64_t, int64_t) { return 0; }
    static void pack_rows(const PatchRows<T>&, void*) {}
};

}  // namespace
