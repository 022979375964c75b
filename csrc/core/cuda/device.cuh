// What the kernels ask of the processor: conversions, sums over a warp, matrix products, copies in the background. The
// tests run the kernels on the CPU; what has no C++ of its own then comes from csrc/tests/cuda_emulator.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common.cuh"

namespace protokern::cuda {

constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline float float_of_bits(uint32_t bits) {
#ifdef PROTOKERN_EMULATED
    return emulator::bit_cast<float>(bits);
#else
    return __uint_as_float(bits);
#endif
}

__device__ inline uint32_t bits_of_float(float value) {
#ifdef PROTOKERN_EMULATED
    return emulator::bit_cast<uint32_t>(value);
#else
    return __float_as_uint(value);
#endif
}

// Round to the nearest, ties away from zero; infinities stay.
__device__ inline uint32_t tf32_of(float value) { return (bits_of_float(value) + 0x1000u) & 0xffffe000u; }

// Round to nearest even.
__device__ inline uint16_t bfloat16_of(float value) {
    const uint32_t bits = bits_of_float(value);
    if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ inline double widen(double value) { return value; }
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(BFloat16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float widen(Float16 value) {
#ifdef PROTOKERN_EMULATED
    return emulator::float_of_half(value.bits);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#endif
}

__device__ inline void narrow(double value, double* out) { *out = value; }
__device__ inline void narrow(float value, float* out) { *out = value; }
__device__ inline void narrow(float value, BFloat16* out) { out->bits = bfloat16_of(value); }
__device__ inline void narrow(float value, Float16* out) {
#ifdef PROTOKERN_EMULATED
    out->bits = emulator::half_of_float(value);
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#endif
}

template <typename T>
__device__ inline bool finite(T value) {
    return value - value == T(0);
}

template <typename T>
__device__ inline T not_a_number() {
    return static_cast<T>(float_of_bits(0x7fc00000u));
}
template <typename T>
__device__ inline T infinity() {
    return static_cast<T>(float_of_bits(0x7f800000u));
}

// A product that no addition is fused with.
__device__ inline float rounded_product(float a, float b) {
#ifdef PROTOKERN_EMULATED
    return a * b;
#else
    return __fmul_rn(a, b);
#endif
}
__device__ inline double rounded_product(double a, double b) {
#ifdef PROTOKERN_EMULATED
    return a * b;
#else
    return __dmul_rn(a, b);
#endif
}

// The same sum in all lanes, always added up in the same order.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(all_lanes, value, step);
    return value;
}

// 1 / sqrt(squared norm) as the scale of a direction: 0 for a zero vector (and one too small for its inverse), NaN for
// one that is not finite or whose norm is beyond double.
template <typename T>
__device__ inline T inverse_length(double squared_norm) {
    if (squared_norm == 0) return T(0);
    if (!finite(squared_norm)) return not_a_number<T>();
    const double inverse = rsqrt(squared_norm);
    return sizeof(T) == sizeof(float) && inverse > 3.402823e38 ? T(0) : static_cast<T>(inverse);
}

// Sixteen or eight bytes from global to shared memory in the background; `bytes` = 0 writes zeros instead.
template <int size>
__device__ inline void copy_in_background(void* shared, const void* global, int bytes) {
#ifdef PROTOKERN_EMULATED
    emulator::copy_in_background(shared, global, size, bytes);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (size == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(bytes));
#endif
}

__device__ inline void end_copy_group() {
#ifdef PROTOKERN_EMULATED
    emulator::end_copy_group();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Waits until at most `left` of the newest groups are under way.
template <int left>
__device__ inline void wait_for_copies() {
#ifdef PROTOKERN_EMULATED
    emulator::wait_for_copies(left);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
#endif
}

// sum += a b for a 16 x 8 tile of sums, rows of 8 words each: 8 tf32 values (Half = false) or 16 bfloat16. With
// g = lane / 4 and t = lane % 4, a lane holds words t and t + 4 of a's rows g (a[0], a[2]) and g + 8 (a[1], a[3]),
// words t and t + 4 of b's row g, and sums (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
template <bool Half>
__device__ inline void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef PROTOKERN_EMULATED
    emulator::multiply(Half, sum, a, b0, b1);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (Half)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace protokern::cuda
