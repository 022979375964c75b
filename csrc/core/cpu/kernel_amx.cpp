// Built for x86-64-v4 with AVX512-BF16 and AMX-BF16; run only where processor and operating system have them. float32
// searches run on tiles; the rest is as in kernel_avx512.cpp.
#include "simd_avx512.h"

#include "amx_search.h"

#include "instruction_sets.h"
#include "kernels.h"
#include "tiles.h"

namespace protokern::cpu {

namespace {

constexpr Kernels<float> amx_kernels() {
    Kernels<float> kernels = make_kernels<VectorF32>();
    kernels.lanes = AmxSearch::lanes;
    kernels.dot_error = AmxSearch::dot_error;
    kernels.products = AmxSearch::products;
    kernels.panel_bytes = AmxSearch::panel_bytes;
    kernels.pack_panel = AmxSearch::pack_panel;
    kernels.row_bytes = AmxSearch::row_bytes;
    kernels.pack_rows = AmxSearch::pack_rows;
    kernels.search = AmxSearch::run;
    return kernels;
}

constexpr TileKernelSet tiles = {make_tiles<VectorF32>(), make_tiles<VectorF64>()};

}  // namespace

extern const InstructionSet amx_instructions = {"amx", amx_kernels(), make_kernels<VectorF64>(),
                                                run_fma_loop<VectorF32>, &tiles};

}  // namespace protokern::cpu
