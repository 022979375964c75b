// Built for x86-64-v4; run only where the processor has AVX-512 F, BW, CD, DQ and VL.
#include "simd_avx512.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern const InstructionSet avx512_instructions = {"avx512", make_kernels<VectorF32>(), make_kernels<VectorF64>(),
                                                   {},       run_fma_loop<VectorF32>,   &tiles};

}  // namespace protokern::cpu
