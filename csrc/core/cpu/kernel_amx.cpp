// Built for x86-64-v4 with AVX512-BF16 and AMX-BF16; run only where processor and operating system have them. float32
// searches run on tile registers; float64 and the kernels of whole grids are those of kernel_avx512.cpp.
#include "simd_avx512.h"

#include "amx_search.h"

#include "instruction_sets.h"
#include "kernels.h"

namespace protokern::cpu {

namespace {

constexpr Kernels<float> float32 = with_search<AmxSearch<2>>(make_kernels<VectorF32>());

}  // namespace

extern constinit const InstructionSet amx_instructions = {"amx",
                                                          &float32,
                                                          &avx512_float64,
                                                          rounded_search<AmxSearch<1>, RoundedToBFloat16, VectorF32>(),
                                                          run_fma_loop<VectorF32>,
                                                          &avx512_tiles};

}  // namespace protokern::cpu
