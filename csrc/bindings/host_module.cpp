// Facts about this build and this processor, for `protokern doctor` and the benchmarks. No tensors here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "instruction_sets.h"

namespace {

namespace cpu = protokern::cpu;
namespace py = pybind11;

std::vector<std::string> compiled() {
    std::vector<std::string> names;
    for (int i = 0; i < cpu::candidates().count; ++i) names.push_back(cpu::candidates().entries[i].instructions->name);
    return names;
}

std::vector<std::string> supported() {
    std::vector<std::string> names;
    for (int i = 0; i < cpu::candidates().count; ++i)
        if (cpu::candidates().entries[i].supported()) names.push_back(cpu::candidates().entries[i].instructions->name);
    return names;
}

template <typename Row, size_t size>
std::vector<std::string> names_of(const Row (&rows)[size]) {
    std::vector<std::string> names;
    for (const Row& row : rows) names.push_back(row.name);
    return names;
}

std::string compiler() {
#if defined(__clang__)
    return std::string("clang ") + __clang_version__;
#else
    return std::string("gcc ") + __VERSION__;
#endif
}

// float32 operations per second, in units of 1e9, that `threads` threads reach together in `seconds` of plain FMAs.
double fma_peak(int threads, double seconds) {
    using Clock = std::chrono::steady_clock;
    if (threads < 1) throw py::value_error("threads: must be at least 1; got " + std::to_string(threads) + ".");
    const cpu::InstructionSet& chosen = cpu::chosen_instructions();
    std::vector<double> rate(threads);
    const auto measure = [&](int thread) {
        const auto start = Clock::now();
        double operations = 0;
        double elapsed = 0;
        while (elapsed < seconds) {
            operations += chosen.fma_loop(20000);
            elapsed = std::chrono::duration<double>(Clock::now() - start).count();
        }
        rate[thread] = operations / elapsed / 1e9;
    };
    std::vector<std::thread> running;
    for (int thread = 1; thread < threads; ++thread) running.emplace_back(measure, thread);
    measure(0);
    for (std::thread& thread : running) thread.join();
    double total = 0;
    for (const double one : rate) total += one;
    return total;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
    m.doc() = "Facts about the compiled CPU library and this processor.";
    m.def("compiled_instruction_sets", &compiled, "Instruction sets in this build, fastest first.");
    m.def("supported_instruction_sets", &supported, "Those of them that this processor has, fastest first.");
    m.def(
        "chosen_instruction_set", [] { return std::string(cpu::chosen_instructions().name); },
        "The one in use: the fastest, or what PROTOKERN_ISA names. Raises RuntimeError where that cannot run.");
    m.def("metrics", [] { return names_of(protokern::metric_names); }, "Names of the metrics, in their order.");
    m.def("activations", [] { return names_of(protokern::activation_names); }, "Names of the similarities, in order.");
    m.def("compiler", &compiler, "Compiler that built this module.");
    m.def("fma_peak", &fma_peak, py::arg("threads"), py::arg("seconds") = 0.05,
          py::call_guard<py::gil_scoped_release>(),
          "GFLOP/s of float32 fused multiply-adds on `threads` threads, with the chosen instruction set.");
}
