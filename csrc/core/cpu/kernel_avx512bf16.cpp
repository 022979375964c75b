// Built for x86-64-v4 with AVX512-BF16; run only where the processor has both. As kernel_avx512.cpp, and a search of
// rounded values.
#include "simd_avx512.h"

#include "bfloat16_search.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern const InstructionSet avx512bf16_instructions = {"avx512bf16",
                                                       make_kernels<VectorF32>(),
                                                       make_kernels<VectorF64>(),
                                                       rounded_search<BFloat16Search, RoundedToBFloat16, VectorF32>(),
                                                       run_fma_loop<VectorF32>,
                                                       &tiles};

}  // namespace protokern::cpu
