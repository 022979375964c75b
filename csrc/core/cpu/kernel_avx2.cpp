// Built for x86-64-v3; run only where the processor has AVX2 and FMA.
#include "simd_avx2.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr Kernels<float> float32 = make_kernels<VectorF32>();
constexpr Kernels<double> float64 = make_kernels<VectorF64>();
constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern constinit const InstructionSet avx2_instructions = {"avx2", &float32, &float64, {}, run_fma_loop<VectorF32>,
                                                           &tiles};

}  // namespace protokern::cpu
