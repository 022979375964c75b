// Rounding to bfloat16 and walking over patches, for the searches of rounded values.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "types.h"

namespace {

// 16 + 16 values rounded to nearest even; numbers too small for a normal float32 become 0.
inline __m512i rounded_pair(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

inline __m512 widened(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

// Values as a search of rounded values sees them.
struct RoundedToBFloat16 {
    static __m512 of(__m512 value) { return widened((__m256i)_mm512_cvtneps_pbh(value)); }
};

// The values of one patch less the centre, 16 at a time, segment by segment; zeros after the last.
class RowVectors {
  public:
    RowVectors(const protokern::cpu::PatchRows<float>& patches, int64_t row)
        : patches_(patches),
          row_(patches.pixels + row / patches.rows * patches.image_stride + patches.row[row % patches.rows]),
          vectors_(patches.padded_depth / 16) {}

    __m512 next() {
        if (segment_ == patches_.segments) return _mm512_setzero_ps();
        __m512 values = _mm512_loadu_ps(row_ + patches_.segment[segment_] + vector_ * 16);
        if (patches_.centre) values = _mm512_sub_ps(values, _mm512_loadu_ps(patches_.centre + vector_ * 16));
        if (++vector_ == vectors_) vector_ = 0, ++segment_;
        return values;
    }

  private:
    const protokern::cpu::PatchRows<float>& patches_;
    const float* row_;
    int64_t vectors_;  // per segment
    int64_t segment_ = 0;
    int64_t vector_ = 0;
};

}  // namespace
