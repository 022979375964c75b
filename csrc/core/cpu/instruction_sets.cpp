#include "instruction_sets.h"

#ifdef PROTOKERN_X86
#include <cpuid.h>
#endif
#ifdef PROTOKERN_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

bool has_avx512bf16() {
    constexpr unsigned avx512_bf16 = 1u << 5;
    unsigned eax, ebx, ecx, edx;
    return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & avx512_bf16) != 0;
}

// Intel's vector units take four times as long for a product of bfloat16 pairs as for a float32 one (measured on
// Sapphire Rapids), AMD's as long.
bool has_fast_avx512bf16() { return has_avx512bf16() && __builtin_cpu_is("amd"); }
#endif

#ifdef PROTOKERN_AMX
// Linux lets a process use the tile registers only after it has asked for them.
bool has_amx() {
    constexpr long request_permission = 0x1023;
    constexpr long tile_data = 18;
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    unsigned eax, ebx, ecx, edx;
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if ((edx & amx_bf16) == 0 || (edx & amx_tile) == 0) return false;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

constexpr Candidate compiled[] = {
#ifdef PROTOKERN_AMX
    {&amx_instructions, has_amx, always},
#endif
#ifdef PROTOKERN_X86
    {&avx512bf16_instructions, has_avx512bf16, has_fast_avx512bf16},
    {&avx512_instructions, has_avx512, always},
    {&avx2_instructions, has_avx2, always},
#endif
    {&base_instructions, always, always},
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
        if (!forced && !candidate.preferred()) continue;
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
