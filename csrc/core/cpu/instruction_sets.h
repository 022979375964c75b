// The compiled instruction sets and the choice among them at run time.
#pragma once

#include "tile_types.h"
#include "types.h"

namespace protokern::cpu {

extern const InstructionSet base_instructions;
#ifdef PROTOKERN_X86
extern const InstructionSet avx2_instructions;
extern const InstructionSet avx512_instructions;
extern const InstructionSet avx512bf16_instructions;
// What the sets beyond AVX-512 take from it: compiled once, since their own instructions would change none of it.
extern const Kernels<float> avx512_float32;
extern const Kernels<double> avx512_float64;
extern const TileKernelSet avx512_tiles;
#endif
#ifdef PROTOKERN_AMX
extern const InstructionSet amx_instructions;
#endif

struct Candidate {
    const InstructionSet* instructions;
    bool (*supported)();  // by this processor and operating system
    bool (*preferred)();  // to those after it, where nothing is forced
};

// Fastest first; the last entry runs everywhere.
struct Candidates {
    const Candidate* entries;
    int count;
};
Candidates candidates();

// The fastest supported set, or the one that the environment variable PROTOKERN_ISA names. Decided once per process.
// Throws std::runtime_error when PROTOKERN_ISA names an unknown, uncompiled or unsupported set.
const InstructionSet& chosen_instructions();

}  // namespace protokern::cpu
