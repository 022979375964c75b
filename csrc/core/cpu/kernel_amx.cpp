// Built for x86-64-v4 with AVX512-BF16 and AMX-BF16; run only where processor and operating system have them. float32
// searches run on tiles; the rest is as in kernel_avx512.cpp.
#include "simd_avx512.h"

#include "amx_search.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern const InstructionSet amx_instructions = {"amx",
                                                with_search<AmxSearch<2>>(make_kernels<VectorF32>()),
                                                make_kernels<VectorF64>(),
                                                rounded_search<AmxSearch<1>, RoundedToBFloat16, VectorF32>(),
                                                run_fma_loop<VectorF32>,
                                                &tiles};

}  // namespace protokern::cpu
