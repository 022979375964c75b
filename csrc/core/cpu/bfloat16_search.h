// The search of rounded values with AVX512-BF16: as search.h, with two bfloat16 values of a patch and of 16 prototypes
// multiplied and added by one instruction. Rows are packed patch by patch, [image][row][length], panels are
// [length / 2][lanes][2].
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "bfloat16_rows.h"
#include "search.h"
#include "simd_avx512.h"
#include "types.h"

namespace {

struct BFloat16Pairs {
    using Element = uint32_t;
    using Factors = __m512i;
    static constexpr int64_t step = 8;  // 16 values, to which depths are padded

    static Factors load(const Element* p) { return _mm512_load_si512(p); }
    static Factors set(Element pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
    static __m512 multiply_add(Factors a, Factors b, __m512 sum) {
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    }
};

struct BFloat16Search {
    using Plain = Search<VectorF32, BFloat16Pairs>;
    static constexpr int lanes = Plain::lanes;
    static constexpr double dot_error = 0.0;
    static constexpr int products = 1;

    // Lengths are of padded rows: a multiple of 16.
    static int64_t panel_bytes(int64_t padded_length) { return padded_length * lanes * 2; }
    static int64_t row_bytes(int64_t rows, int64_t padded_length) { return rows * padded_length * 2; }

    static void pack_panel(const float* rows, int64_t row_stride, int64_t count, int64_t padded_length, void* panel) {
        for (int64_t k = 0; k < padded_length; k += 32)
            for (int c = 0; c < VectorF32::columns; ++c) {
                __m512i pairs[16];
#pragma GCC unroll 16
                for (int p = 0; p < 16; ++p) {
                    const float* values = rows + (c * 16 + p) * row_stride + k;
                    const bool there = c * 16 + p < count;
                    const bool second = there && k + 16 < padded_length;
                    pairs[p] = rounded_pair(there ? _mm512_loadu_ps(values) : _mm512_setzero_ps(),
                                            second ? _mm512_loadu_ps(values + 16) : _mm512_setzero_ps());
                }
                transpose_16x16(pairs);
                uint32_t* out = static_cast<uint32_t*>(panel) + k / 2 * lanes + c * 16;
                const int there = padded_length - k < 32 ? 8 : 16;
                for (int i = 0; i < there; ++i) _mm512_store_si512(out + i * lanes, pairs[i]);
            }
    }

    static void pack_rows(const PatchRows<float>& patches, void* packed) {
        const int64_t length = patches.segments * patches.padded_depth;
        char* out = static_cast<char*>(packed);
        for (int64_t r = 0; r < patches.images * patches.rows; ++r) {
            RowVectors values(patches, r);
            for (int64_t k = 0; k < length; k += 16, out += 32)
                _mm256_store_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(values.next()));
        }
    }

    static void run(const PatchRows<float>& patches, const void* packed, const void* panel,
                    const SearchState<float>& state) {
        const int64_t pairs = patches.segments * patches.padded_depth / 2;
        const int64_t whole[1] = {0};
        const auto row = [&](int64_t image, int64_t n) {
            return static_cast<const uint32_t*>(packed) + (image * patches.rows + n) * pairs;
        };
        Plain::run_rows(patches, row, {whole, 1, pairs}, static_cast<const uint32_t*>(panel), state);
    }
};

}  // namespace
