// Built for x86-64-v4; run only where the processor has AVX-512 F, BW, CD, DQ and VL.
#include "simd_avx512.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

extern constinit const Kernels<float> avx512_float32 = make_kernels<VectorF32>();
extern constinit const Kernels<double> avx512_float64 = make_kernels<VectorF64>();
extern constinit const TileKernelSet avx512_tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

extern constinit const InstructionSet avx512_instructions = {"avx512", &avx512_float32,         &avx512_float64,
                                                             {},       run_fma_loop<VectorF32>, &avx512_tiles};

}  // namespace protokern::cpu
