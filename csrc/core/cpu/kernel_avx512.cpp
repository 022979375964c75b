// Built for x86-64-v4; run only where the processor has AVX-512 F, BW, CD, DQ and VL.
#include "simd_avx512.h"

#include "instruction_sets.h"
#include "kernels.h"

namespace protokern::cpu {

extern const InstructionSet avx512_instructions = {"avx512", make_kernels<VectorF32>(), make_kernels<VectorF64>(),
                                                   run_fma_loop<VectorF32>};

}  // namespace protokern::cpu
