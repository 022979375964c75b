// Vectors of 32 bytes with fused multiply-add (x86-64-v3).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct VectorF32 {
    static constexpr int width = 8;
    // Three columns ask for seven loads per twelve multiply-adds, two columns for eight.
    static constexpr int rows = 4;
    static constexpr int columns = 3;
    using Scalar = float;
    using Index = int32_t;
    using Value = __m256;
    using Number = __m256i;

    static Value zero() { return _mm256_setzero_ps(); }
    static Value set(float x) { return _mm256_set1_ps(x); }
    static Value load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Value v) { _mm256_storeu_ps(p, v); }
    static Number set_number(Index x) { return _mm256_set1_epi32(x); }
    static Number load_number(const Index* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store_number(Index* p, Number v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
    static Value add(Value a, Value b) { return _mm256_add_ps(a, b); }
    static Value sub(Value a, Value b) { return _mm256_sub_ps(a, b); }
    static Value mul(Value a, Value b) { return _mm256_mul_ps(a, b); }
    static Value fma(Value a, Value b, Value c) { return _mm256_fmadd_ps(a, b, c); }
    static float sum(Value v) {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    static void sum4(const Value* v, float* out) {
        const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
        const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
        const __m256 abcd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
    }
    static void keep_smaller(Value s, Number n, Value& best, Value& second, Number& index) {
        const __m256 less = _mm256_cmp_ps(s, best, _CMP_LT_OQ);
        second = _mm256_min_ps(_mm256_max_ps(s, best), second);
        index = _mm256_blendv_epi8(index, n, _mm256_castps_si256(less));
        best = _mm256_min_ps(s, best);
    }
    static Value div(Value a, Value b) { return _mm256_div_ps(a, b); }
    // Bit mask of the lanes where a < b or either is NaN.
    static uint32_t not_at_least(Value a, Value b) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NGE_UQ)));
    }
    // Swaps (a, i) and (b, j) in the lanes where b < a.
    static void put_smaller_first(Value& a, Number& i, Value& b, Number& j) {
        const Value less = _mm256_cmp_ps(b, a, _CMP_LT_OQ);
        const Value smaller = _mm256_blendv_ps(a, b, less);
        const Number first = _mm256_blendv_epi8(i, j, _mm256_castps_si256(less));
        b = _mm256_blendv_ps(b, a, less);
        j = _mm256_blendv_epi8(j, i, _mm256_castps_si256(less));
        a = smaller;
        i = first;
    }
};

struct VectorF64 {
    static constexpr int width = 4;
    static constexpr int rows = 6;
    static constexpr int columns = 2;
    using Scalar = double;
    using Index = int64_t;
    using Value = __m256d;
    using Number = __m256i;

    static Value zero() { return _mm256_setzero_pd(); }
    static Value set(double x) { return _mm256_set1_pd(x); }
    static Value load(const double* p) { return _mm256_loadu_pd(p); }
    static void store(double* p, Value v) { _mm256_storeu_pd(p, v); }
    static Number set_number(Index x) { return _mm256_set1_epi64x(x); }
    static Number load_number(const Index* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store_number(Index* p, Number v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
    static Value add(Value a, Value b) { return _mm256_add_pd(a, b); }
    static Value sub(Value a, Value b) { return _mm256_sub_pd(a, b); }
    static Value mul(Value a, Value b) { return _mm256_mul_pd(a, b); }
    static Value fma(Value a, Value b, Value c) { return _mm256_fmadd_pd(a, b, c); }
    static double sum(Value v) {
        const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
        return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
    }
    static void sum4(const Value* v, double* out) {
        for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
    }
    static void keep_smaller(Value s, Number n, Value& best, Value& second, Number& index) {
        const __m256d less = _mm256_cmp_pd(s, best, _CMP_LT_OQ);
        second = _mm256_min_pd(_mm256_max_pd(s, best), second);
        index = _mm256_blendv_epi8(index, n, _mm256_castpd_si256(less));
        best = _mm256_min_pd(s, best);
    }
    static Value div(Value a, Value b) { return _mm256_div_pd(a, b); }
    // Bit mask of the lanes where a < b or either is NaN.
    static uint32_t not_at_least(Value a, Value b) {
        return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_NGE_UQ)));
    }
    // Swaps (a, i) and (b, j) in the lanes where b < a.
    static void put_smaller_first(Value& a, Number& i, Value& b, Number& j) {
        const Value less = _mm256_cmp_pd(b, a, _CMP_LT_OQ);
        const Value smaller = _mm256_blendv_pd(a, b, less);
        const Number first = _mm256_blendv_epi8(i, j, _mm256_castpd_si256(less));
        b = _mm256_blendv_pd(b, a, less);
        j = _mm256_blendv_epi8(j, i, _mm256_castpd_si256(less));
        a = smaller;
        i = first;
    }
};

}  // namespace
