// Any processor: plain vectors of 16 bytes.
#include "simd_base.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr Kernels<float> float32 = make_kernels<VectorF32>();
constexpr Kernels<double> float64 = make_kernels<VectorF64>();
constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern constinit const InstructionSet base_instructions = {"base", &float32, &float64, {}, run_fma_loop<VectorF32>,
                                                           &tiles};

}  // namespace protokern::cpu
