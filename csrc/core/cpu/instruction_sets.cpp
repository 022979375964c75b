#include "instruction_sets.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace protokern::cpu {
namespace {

bool always() { return true; }

#ifdef PROTOKERN_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

constexpr Candidate compiled[] = {
#ifdef PROTOKERN_X86
    {&avx512_instructions, has_avx512},
    {&avx2_instructions, has_avx2},
#endif
    {&base_instructions, always},
};

std::string supported_names() {
    std::string names;
    for (const Candidate& candidate : compiled)
        if (candidate.supported()) names += (names.empty() ? "" : ", ") + std::string(candidate.instructions->name);
    return names;
}

const InstructionSet& choose() {
    const char* wanted = std::getenv("PROTOKERN_ISA");
    const bool forced = wanted != nullptr && *wanted != '\0';
    for (const Candidate& candidate : compiled) {
        if (forced && std::strcmp(wanted, candidate.instructions->name) != 0) continue;
        if (candidate.supported()) return *candidate.instructions;
    }
    throw std::runtime_error("PROTOKERN_ISA: must be an instruction set that this build and this processor have (" +
                             supported_names() + "); got '" + wanted + "'. Unset it to take the fastest.");
}

}  // namespace

Candidates candidates() { return {compiled, static_cast<int>(sizeof compiled / sizeof compiled[0])}; }

const InstructionSet& chosen_instructions() {
    static const InstructionSet& chosen = choose();
    return chosen;
}

}  // namespace protokern::cpu
