// Vectors of 64 bytes with fused multiply-add (x86-64-v4).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

// Transposes 16 x 16 numbers of 32 bits in registers: pairs, then quadruples, then quarters of the vectors.
inline void transpose_16x16(__m512i* r) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // r[4 * i + c] now holds column 4 * q + c of rows 4 * i .. 4 * i + 3 in its quarter q.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
        const __m512i even_low = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
        const __m512i even_high = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        const __m512i odd_high = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        t[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = t[i];
}

struct VectorF32 {
    static constexpr int width = 16;
    static constexpr int rows = 9;
    static constexpr int columns = 3;
    using Scalar = float;
    using Index = int32_t;
    using Value = __m512;
    using Number = __m512i;

    static Value zero() { return _mm512_setzero_ps(); }
    static Value set(float x) { return _mm512_set1_ps(x); }
    static Value load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Value v) { _mm512_storeu_ps(p, v); }
    static Number set_number(Index x) { return _mm512_set1_epi32(x); }
    static Number load_number(const Index* p) { return _mm512_loadu_si512(p); }
    static void store_number(Index* p, Number v) { _mm512_storeu_si512(p, v); }
    static Value add(Value a, Value b) { return _mm512_add_ps(a, b); }
    static Value sub(Value a, Value b) { return _mm512_sub_ps(a, b); }
    static Value mul(Value a, Value b) { return _mm512_mul_ps(a, b); }
    static Value fma(Value a, Value b, Value c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(Value v) {
        const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    static void sum4(const Value* v, float* out) {
        const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
        const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
        const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    }
    // Writes the columns of a 16 x 16 block as rows, `stride` apart.
    static void store_transposed(const float (*block)[16], float* out, int64_t stride) {
        __m512i rows[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(block[i]);
        transpose_16x16(rows);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * stride, rows[i]);
    }
    static void keep_smaller(Value s, Number n, Value& best, Value& second, Number& index) {
        const __mmask16 less = _mm512_cmp_ps_mask(s, best, _CMP_LT_OQ);
        second = _mm512_min_ps(_mm512_max_ps(s, best), second);
        index = _mm512_mask_mov_epi32(index, less, n);
        best = _mm512_min_ps(s, best);
    }
    static Value div(Value a, Value b) { return _mm512_div_ps(a, b); }
    // Bit mask of the lanes where a < b or either is NaN.
    static uint32_t not_at_least(Value a, Value b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGE_UQ); }
    // Swaps (a, i) and (b, j) in the lanes where b < a.
    static void put_smaller_first(Value& a, Number& i, Value& b, Number& j) {
        const __mmask16 less = _mm512_cmp_ps_mask(b, a, _CMP_LT_OQ);
        const Value smaller = _mm512_mask_mov_ps(a, less, b);
        const Number first = _mm512_mask_mov_epi32(i, less, j);
        b = _mm512_mask_mov_ps(b, less, a);
        j = _mm512_mask_mov_epi32(j, less, i);
        a = smaller;
        i = first;
    }
};

struct VectorF64 {
    static constexpr int width = 8;
    static constexpr int rows = 8;
    static constexpr int columns = 3;
    using Scalar = double;
    using Index = int64_t;
    using Value = __m512d;
    using Number = __m512i;

    static Value zero() { return _mm512_setzero_pd(); }
    static Value set(double x) { return _mm512_set1_pd(x); }
    static Value load(const double* p) { return _mm512_loadu_pd(p); }
    static void store(double* p, Value v) { _mm512_storeu_pd(p, v); }
    static Number set_number(Index x) { return _mm512_set1_epi64(x); }
    static Number load_number(const Index* p) { return _mm512_loadu_si512(p); }
    static void store_number(Index* p, Number v) { _mm512_storeu_si512(p, v); }
    static Value add(Value a, Value b) { return _mm512_add_pd(a, b); }
    static Value sub(Value a, Value b) { return _mm512_sub_pd(a, b); }
    static Value mul(Value a, Value b) { return _mm512_mul_pd(a, b); }
    static Value fma(Value a, Value b, Value c) { return _mm512_fmadd_pd(a, b, c); }
    static double sum(Value v) {
        const __m256d y = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
        const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(y), _mm256_extractf128_pd(y, 1));
        return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
    }
    static void sum4(const Value* v, double* out) {
        for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
    }
    static void keep_smaller(Value s, Number n, Value& best, Value& second, Number& index) {
        const __mmask8 less = _mm512_cmp_pd_mask(s, best, _CMP_LT_OQ);
        second = _mm512_min_pd(_mm512_max_pd(s, best), second);
        index = _mm512_mask_mov_epi64(index, less, n);
        best = _mm512_min_pd(s, best);
    }
    static Value div(Value a, Value b) { return _mm512_div_pd(a, b); }
    // Bit mask of the lanes where a < b or either is NaN.
    static uint32_t not_at_least(Value a, Value b) { return _mm512_cmp_pd_mask(a, b, _CMP_NGE_UQ); }
    // Swaps (a, i) and (b, j) in the lanes where b < a.
    static void put_smaller_first(Value& a, Number& i, Value& b, Number& j) {
        const __mmask8 less = _mm512_cmp_pd_mask(b, a, _CMP_LT_OQ);
        const Value smaller = _mm512_mask_mov_pd(a, less, b);
        const Number first = _mm512_mask_mov_epi64(i, less, j);
        b = _mm512_mask_mov_pd(b, less, a);
        j = _mm512_mask_mov_epi64(j, less, i);
        a = smaller;
        i = first;
    }
};

}  // namespace
