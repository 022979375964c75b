// Reading feature maps of any strides and dtype into rows of pixels, and writing gradients back the same way.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

namespace {

using protokern::cpu::DType;
using protokern::cpu::PixelLoad;
using protokern::cpu::PixelStore;
using protokern::cpu::RowMeasure;

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return float_of_bits(uint32_t(value.bits) << 16); }
inline float widen(Float16 value) {
    const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
    const uint32_t rest = uint32_t(value.bits & 0x7fffu) << 13;
    // Exponents differ by 112; the product also turns float16 subnormals into normal numbers.
    const float scaled = float_of_bits(rest) * 0x1p112f;
    const uint32_t special = rest >= 0x0f800000u ? 0x7f800000u | rest : bits_of_float(scaled);  // inf, NaN
    return float_of_bits(sign | special);
}

inline void narrow(float value, float* out) { *out = value; }
inline void narrow(double value, double* out) { *out = value; }
// Round to nearest even.
inline void narrow(float value, BFloat16* out) {
    const uint32_t bits = bits_of_float(value);
    if (value != value)
        out->bits = static_cast<uint16_t>((bits >> 16) | 0x40u);
    else
        out->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void narrow(float value, Float16* out) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u)
        half = 0x7e00u;
    else if (magnitude >= 0x477ff000u)
        half = 0x7c00u;
    // Below the normal range the addition aligns the value to the subnormal grid, with the processor's own rounding.
    else if (magnitude < 0x38800000u)
        half = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    else
        half = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    out->bits = static_cast<uint16_t>(sign | half);
}

// What a search does to its values before their norms are taken.
struct Unrounded {
    template <typename Value>
    static Value of(Value value) {
        return value;
    }
};

template <typename V>
struct Pixels {
    using T = typename V::Scalar;
    static constexpr int64_t tile = 16;
    static constexpr int64_t ahead = 8 * tile;  // pixels

    // Channels beside each other: rows are copied as they are.
    template <typename Source>
    static void copy_rows(const PixelLoad<T>& a) {
        int64_t row = a.first / a.width;
        int64_t column = a.first % a.width;
        for (int64_t n = 0; n < a.count; ++n) {
            const Source* in = static_cast<const Source*>(a.image) + row * a.stride_height + column * a.stride_width;
            T* out = a.pixels + n * a.padded_depth;
            for (int64_t d = 0; d < a.depth; ++d) out[d] = widen(in[d]);
            for (int64_t d = a.depth; d < a.padded_depth; ++d) out[d] = T(0);
            if (++column == a.width) column = 0, ++row;
        }
    }

    // Any strides, in blocks of 16 pixels x 16 channels: few cache lines at a time even where channels lie a power of
    // two apart, and whole lines written. A block is first read along the pixels, which are often beside each other;
    // then the lines of a later one are fetched, since the processor alone follows so many short runs too slowly.
    template <typename Source>
    static void transpose(const PixelLoad<T>& a) {
        const Source* image = static_cast<const Source*>(a.image);
        const bool dense = a.stride_width == 1 && a.stride_height == a.width;
        alignas(64) T block[tile][tile];
        for (int64_t d0 = 0; d0 < a.padded_depth; d0 += tile)
            for (int64_t n0 = 0; n0 < a.count; n0 += tile) {
                const int64_t pixels = a.count - n0 < tile ? a.count - n0 : tile;
                const int64_t width = a.padded_depth - d0 < tile ? a.padded_depth - d0 : tile;
                int64_t offset[tile];
                for (int64_t n = 0; n < pixels && !dense; ++n) {
                    const int64_t pixel = a.first + n0 + n;
                    offset[n] = pixel / a.width * a.stride_height + pixel % a.width * a.stride_width;
                }
                for (int64_t d = 0; d < width; ++d) {
                    if (d0 + d >= a.depth) {
                        for (int64_t n = 0; n < tile; ++n) block[d][n] = T(0);
                        continue;
                    }
                    const Source* in = image + (d0 + d) * a.stride_depth;
                    if (dense) in += a.first + n0;
                    if (dense && n0 + ahead < a.count)
                        __builtin_prefetch(in + ahead);
                    else if (dense && d0 + d + tile < a.depth)
                        __builtin_prefetch(in + tile * a.stride_depth - n0 + (n0 + ahead) % a.count);
                    if (dense && pixels == tile)
                        for (int64_t n = 0; n < tile; ++n) block[d][n] = widen(in[n]);
                    else
                        for (int64_t n = 0; n < pixels; ++n) block[d][n] = widen(in[dense ? n : offset[n]]);
                }
                T* out = a.pixels + n0 * a.padded_depth + d0;
                if constexpr (V::width == tile)
                    if (pixels == tile) {
                        V::store_transposed(block, out, a.padded_depth);
                        continue;
                    }
                for (int64_t n = 0; n < pixels; ++n, out += a.padded_depth)
                    for (int64_t d = 0; d < width; ++d) out[d] = block[d][n];
            }
    }

    template <typename Source>
    static void gather(const PixelLoad<T>& a) {
        if (a.stride_depth == 1)
            copy_rows<Source>(a);
        else
            transpose<Source>(a);
    }

    static void load(const PixelLoad<T>& a) {
        if constexpr (sizeof(T) == 8)
            gather<double>(a);
        else if (a.dtype == DType::float32)
            gather<float>(a);
        else if (a.dtype == DType::bfloat16)
            gather<BFloat16>(a);
        else
            gather<Float16>(a);
    }

    template <typename Rounding>
    static void measure(const RowMeasure<T>& a) {
        for (int64_t n = 0; n < a.count; ++n)
            a.norm[n] = a.centre ? centre<Rounding>(a, n) : plain_norm(a.rows + n * a.padded_depth, a.padded_depth);
    }

    template <typename Rounding>
    static double centre(const RowMeasure<T>& a, int64_t n) {
        const T* row = a.rows + n * a.padded_depth;
        T* centred = a.centred ? a.centred + n * a.padded_depth : nullptr;
        auto norm = V::zero();
        auto finite = V::zero();  // stays 0 unless a value is inf or NaN; large finite values may overflow the norm
        for (int64_t d = 0; d < a.padded_depth; d += V::width) {
            const auto value = V::load(row + d);
            const auto shifted = Rounding::of(V::sub(value, V::load(a.centre + d)));
            if (centred) V::store(centred + d, shifted);
            norm = V::fma(shifted, shifted, norm);
            finite = V::fma(value, V::zero(), finite);
        }
        return static_cast<double>(V::sum(norm)) + static_cast<double>(V::sum(finite));
    }

    // In double, so that neither tiny nor huge vectors lose their direction.
    static double plain_norm(const T* row, int64_t length) {
        double norm = 0;
        double finite = 0;
        for (int64_t d = 0; d < length; ++d) {
            const double value = static_cast<double>(row[d]);
            norm += value * value;
            finite += value * 0.0;
        }
        return norm + finite;
    }

    template <typename Target>
    static void scatter(const PixelStore<T>& a) {
        Target* image = static_cast<Target*>(a.image);
        for (int64_t begin = 0; begin < a.count; begin += tile) {
            const int64_t end = begin + tile < a.count ? begin + tile : a.count;
            for (int64_t d0 = 0; d0 < a.depth; d0 += tile) {
                const int64_t d1 = d0 + tile < a.depth ? d0 + tile : a.depth;
                for (int64_t n = begin; n < end; ++n) {
                    const T* in = a.pixels + n * a.padded_depth;
                    Target* out = image + (n / a.width) * a.stride_height + (n % a.width) * a.stride_width;
                    for (int64_t d = d0; d < d1; ++d) narrow(in[d], out + d * a.stride_depth);
                }
            }
        }
    }

    static void store(const PixelStore<T>& a) {
        if constexpr (sizeof(T) == 8)
            scatter<double>(a);
        else if (a.dtype == DType::float32)
            scatter<float>(a);
        else if (a.dtype == DType::bfloat16)
            scatter<BFloat16>(a);
        else
            scatter<Float16>(a);
    }
};

}  // namespace
