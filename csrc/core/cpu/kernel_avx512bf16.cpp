// Built for x86-64-v4 with AVX512-BF16; run only where the processor has both. The search of rounded values; the
// rest is that of kernel_avx512.cpp.
#include "simd_avx512.h"

#include "bfloat16_search.h"

#include "instruction_sets.h"
#include "kernels.h"

namespace protokern::cpu {

extern constinit const InstructionSet avx512bf16_instructions = {
    "avx512bf16",
    &avx512_float32,
    &avx512_float64,
    rounded_search<BFloat16Search, RoundedToBFloat16, VectorF32>(),
    run_fma_loop<VectorF32>,
    &avx512_tiles};

}  // namespace protokern::cpu
