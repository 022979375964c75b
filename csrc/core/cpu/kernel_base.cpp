// Any processor: plain vectors of 16 bytes.
#include "simd_base.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern const InstructionSet base_instructions = {"base", make_kernels<VectorF32>(), make_kernels<VectorF64>(),
                                                 {},     run_fma_loop<VectorF32>,   &tiles};

}  // namespace protokern::cpu
