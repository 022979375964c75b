// The search on AMX tiles. For float32 every value is split into two bfloat16 numbers, hi + mid, and a dot product is
// the sum of hi * hi, hi * mid and mid * hi, accumulated in float32: about 17 bits of every value count, against 24 in
// plain float32. Where that might change the nearest patch, the driver compares the patches' exact distances
// (min_distance.cpp). A search of rounded values has hi alone.
//
// Rows of all images of a group lie one after another in tiles of 16, so no image size wastes tile rows. A tile of 16 x
// 32 numbers takes 1 KiB; packed rows are [pair of row tiles][depth tile][upper, lower 16][hi, mid], a panel of 32
// prototypes is [depth tile][hi, mid][left, right 16]. While the tile unit multiplies one pair of row tiles, the vector
// units reduce the scores of the pair before.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "bfloat16_rows.h"
#include "search.h"
#include "simd_avx512.h"
#include "types.h"

namespace {

using protokern::cpu::PatchRows;
using protokern::cpu::SearchState;

struct alignas(64) TileConfiguration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfiguration tile_configuration{};

// Parts: 2 for hi + mid, 1 for hi alone.
template <int Parts>
struct AmxSearch {
    static constexpr int lanes = 32;
    static constexpr int tile_rows = 16;
    static constexpr int tile_depth = 32;
    static constexpr int64_t tile_bytes = 1024;
    // |x - hi - mid| <= 2^-18 |x|, and mid * mid is left out.
    static constexpr double dot_error = Parts == 2 ? 3.0 / (1 << 18) : 0.0;
    static constexpr int products = Parts == 2 ? 3 : 1;
    // Of a depth tile in packed rows and panels: two tiles wide, `Parts` numbers a value.
    static constexpr int64_t step_bytes = 2 * Parts * tile_bytes;

    static int64_t depth_tiles(int64_t length) { return (length + tile_depth - 1) / tile_depth; }
    // Lengths are of padded rows: a multiple of 16.
    static int64_t panel_bytes(int64_t padded_length) { return depth_tiles(padded_length) * step_bytes; }
    static int64_t row_bytes(int64_t rows, int64_t padded_length) {
        return (rows + 2 * tile_rows - 1) / (2 * tile_rows) * depth_tiles(padded_length) * step_bytes;
    }

    // 32 values as their parts.
    static void split(__m512 first, __m512 second, __m512i* parts) {
        parts[0] = rounded_pair(first, second);
        if constexpr (Parts == 2)
            parts[1] = rounded_pair(_mm512_sub_ps(first, widened(_mm512_castsi512_si256(parts[0]))),
                                    _mm512_sub_ps(second, widened(_mm512_extracti64x4_epi64(parts[0], 1))));
    }

    static void pack_panel(const float* rows, int64_t row_stride, int64_t count, int64_t padded_length, void* panel) {
        for (int64_t k = 0; k < depth_tiles(padded_length); ++k)
            for (int c = 0; c < 2; ++c) {
                __m512i parts[Parts][16];
#pragma GCC unroll 16
                for (int p = 0; p < 16; ++p) {
                    const float* values = rows + (c * 16 + p) * row_stride + k * tile_depth;
                    const bool there = c * 16 + p < count;
                    const bool second = there && k * tile_depth + 16 < padded_length;
                    __m512i split_values[Parts];
                    split(there ? _mm512_loadu_ps(values) : _mm512_setzero_ps(),
                          second ? _mm512_loadu_ps(values + 16) : _mm512_setzero_ps(), split_values);
#pragma GCC unroll 2
                    for (int part = 0; part < Parts; ++part) parts[part][p] = split_values[part];
                }
                // The tiles of one depth: hi left, hi right, mid left, mid right.
                char* tile = static_cast<char*>(panel) + k * step_bytes + c * tile_bytes;
#pragma GCC unroll 2
                for (int part = 0; part < Parts; ++part) {
                    transpose_16x16(parts[part]);
#pragma GCC unroll 16
                    for (int i = 0; i < 16; ++i)
                        _mm512_store_si512(tile + part * 2 * tile_bytes + i * 64, parts[part][i]);
                }
            }
    }

    static void pack_rows(const PatchRows<float>& patches, void* packed) {
        const int64_t tiles = depth_tiles(patches.segments * patches.padded_depth);
        const int64_t total = patches.images * patches.rows;
        char* out = static_cast<char*>(packed);
        for (int64_t r = 0; r < total; ++r) {
            RowVectors values(patches, r);
            char* at = out + r / (2 * tile_rows) * tiles * step_bytes + r / tile_rows % 2 * Parts * tile_bytes +
                       r % tile_rows * 64;
            for (int64_t k = 0; k < tiles; ++k, at += step_bytes) {
                const __m512 first = values.next();
                const __m512 second = values.next();
                __m512i parts[Parts];
                split(first, second, parts);
#pragma GCC unroll 2
                for (int part = 0; part < Parts; ++part) _mm512_store_si512(at + part * tile_bytes, parts[part]);
            }
        }
    }

    // Takes dots row by row and keeps the best of the current image.
    struct Reducer {
        const PatchRows<float>& patches;
        const SearchState<float>& state;
        int64_t image = 0;
        int64_t n = 0;

        // `dots` holds `count` rows of 32; `row` counts from the group's start.
        void take(const float* dots, int64_t row, int64_t count) {
            while (count > 0) {
                const int64_t some = count < patches.rows - n ? count : patches.rows - n;
                take_of_image(dots, patches.scale + row, patches.bias + row, some);
                dots += some * lanes;
                row += some;
                count -= some;
                n += some;
                if (n < patches.rows) continue;
                ++image;
                n = 0;
            }
        }

        void take_of_image(const float* dots, const float* scales, const float* biases, int64_t count) const {
            __m512 best[2], second[2];
            __m512i index[2];
            float* best_at = state.best + image * lanes;
            float* second_at = state.second + image * lanes;
            int32_t* index_at = state.index + image * lanes;
#pragma GCC unroll 2
            for (int c = 0; c < 2; ++c) {
                best[c] = _mm512_loadu_ps(best_at + c * 16);
                second[c] = _mm512_loadu_ps(second_at + c * 16);
                index[c] = _mm512_loadu_si512(index_at + c * 16);
            }
            __m512i number = _mm512_set1_epi32(static_cast<int>(patches.first + n));
            for (int64_t r = 0; r < count; ++r, dots += lanes) {
                const __m512 scale = _mm512_set1_ps(scales[r]);
                const __m512 bias = _mm512_set1_ps(biases[r]);
#pragma GCC unroll 2
                for (int c = 0; c < 2; ++c) {
                    const __m512 score = _mm512_fmadd_ps(_mm512_load_ps(dots + c * 16), scale, bias);
                    VectorF32::keep_smaller(score, number, best[c], second[c], index[c]);
                }
                number = _mm512_add_epi32(number, _mm512_set1_epi32(1));
            }
#pragma GCC unroll 2
            for (int c = 0; c < 2; ++c) {
                _mm512_storeu_ps(best_at + c * 16, best[c]);
                _mm512_storeu_ps(second_at + c * 16, second[c]);
                _mm512_storeu_si512(index_at + c * 16, index[c]);
            }
        }
    };

    // Products of one part of the rows, in tiles 4 and 5, with one part of the prototypes, in 6 and 7; sums in 0..3.
    template <int RowTiles, bool LoadRows>
    static void multiply_part(const char* rows) {
        if constexpr (LoadRows) _tile_loadd(4, rows, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (RowTiles == 2) {
            if constexpr (LoadRows) _tile_loadd(5, rows + Parts * tile_bytes, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    // One depth tile of rows {0, 1} x prototypes {left, right}.
    template <int RowTiles>
    static void multiply(const char* rows, const char* panel) {
        _tile_loadd(6, panel, 64);
        _tile_loadd(7, panel + tile_bytes, 64);
        if constexpr (Parts == 2) multiply_part<RowTiles, true>(rows + tile_bytes);  // mid * hi
        multiply_part<RowTiles, true>(rows);
        if constexpr (Parts == 2) {
            _tile_loadd(6, panel + 2 * tile_bytes, 64);
            _tile_loadd(7, panel + 3 * tile_bytes, 64);
            multiply_part<RowTiles, false>(rows);  // hi * mid
        }
    }

    // Dots of one or two row tiles into `dots`; meanwhile `before` scores of the previous ones are reduced.
    template <int RowTiles>
    static void block(const char* rows, const char* panel, int64_t tiles, float* dots, Ahead& ahead, Reducer& reducer,
                      const float* dots_before, int64_t row_before, int64_t before) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (RowTiles == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
        const int64_t share = (before + tiles - 1) / tiles;
        int64_t done = 0;
        for (int64_t k = 0; k < tiles; ++k) {
            ahead.step();
            multiply<RowTiles>(rows + k * step_bytes, panel + k * step_bytes);
            const int64_t count = done + share < before ? share : before - done;
            reducer.take(dots_before + done * lanes, row_before + done, count);
            done += count;
        }
        _tile_stored(0, dots, 128);
        _tile_stored(1, dots + 16, 128);
        if constexpr (RowTiles == 2) {
            _tile_stored(2, dots + 16 * lanes, 128);
            _tile_stored(3, dots + 16 * lanes + 16, 128);
        }
    }

    // GCC's tile intrinsics do not say which memory they read: the configuration is a constant, and a barrier completes
    // all stores to packed rows and panels.
    static void configure() {
        asm volatile("" ::: "memory");
        _tile_loadconfig(&tile_configuration);
    }

    static void run(const PatchRows<float>& patches, const void* packed, const void* panel,
                    const SearchState<float>& state) {
        const int64_t tiles = depth_tiles(patches.segments * patches.padded_depth);
        const int64_t total = patches.images * patches.rows;
        alignas(64) float dots[2][2 * tile_rows * lanes];
        Reducer reducer{patches, state};
        Ahead ahead(patches, (total + 2 * tile_rows - 1) / (2 * tile_rows) * tiles);
        configure();
        int64_t before = 0;  // rows whose dots wait for their reduction, the last ones ahead of `row`
        int slot = 0;
        for (int64_t row = 0; row < total;) {
            const char* rows = static_cast<const char*>(packed) + row / (2 * tile_rows) * tiles * step_bytes;
            const bool pair = total - row > tile_rows;
            (pair ? block<2> : block<1>)(rows, static_cast<const char*>(panel), tiles, dots[slot], ahead, reducer,
                                         dots[1 - slot], row - before, before);
            before = total - row < 2 * tile_rows ? total - row : 2 * tile_rows;
            row += before;
            slot = 1 - slot;
        }
        _tile_release();
        reducer.take(dots[1 - slot], total - before, before);
    }
};

}  // namespace
