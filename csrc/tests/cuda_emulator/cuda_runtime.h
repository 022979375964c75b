// Runs the CUDA sources on the CPU, for the tests: found instead of CUDA's header of this name, it gives the .cu files
// what they use of CUDA, so that a C++ compiler takes them as they are.
//
// Every thread of a block is a fiber; blocks run one after another. Barriers, shuffles and matrix products wait until
// all lanes have come, and stop the program where they never will. Copies in the background arrive only when they are
// waited for, and what they will overwrite is spoilt at once. Shared memory starts as NaN.
#pragma once

#define PROTOKERN_EMULATED

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaError_t = int;
using cudaStream_t = struct FakeStream*;
constexpr cudaError_t cudaSuccess = 0;
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
    return cudaSuccess;
}

namespace emulator {

// What cudaDeviceGetAttribute tells; tests set it.
struct Attributes {
    int multiprocessors = 3;
    int shared_memory = 232448;
    int capability = 90;
};
extern Attributes attributes;
extern cudaError_t launch_error;  // what the next cudaGetLastError returns

extern dim3 block_index, block_size, grid_size, thread_index;

void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const std::function<void()>& body);
unsigned char* shared_memory();
void block_barrier();
// Gives every lane what all lanes of its warp have handed in, 32 entries of `size` bytes each.
const unsigned char* exchange(const char* what, const void* mine, size_t size);
void copy_in_background(void* to, const void* from, int size, int bytes);
void end_copy_group();
void wait_for_copies(int left);
void multiply(bool half, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
float float_of_half(uint16_t bits);
uint16_t half_of_float(float value);
[[noreturn]] void fail(const char* what);

template <typename To, typename From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned lane() { return thread_index.x % 32; }

template <typename T>
T lane_value(const unsigned char* all, unsigned lane) {
    T value;
    std::memcpy(&value, all + lane * sizeof(T), sizeof(T));
    return value;
}

inline void require_all_lanes(unsigned mask) {
    if (mask != 0xffffffffu) fail("a warp operation without all lanes");
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulator::require_all_lanes(mask);
    emulator::exchange("syncwarp", &mask, sizeof mask);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
    emulator::require_all_lanes(mask);
    return emulator::lane_value<T>(emulator::exchange("shuffle", &value, sizeof value), source % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    emulator::require_all_lanes(mask);
    const unsigned char* all = emulator::exchange("shuffle xor", &value, sizeof value);
    return emulator::lane_value<T>(all, emulator::lane() ^ distance);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulator::require_all_lanes(mask);
    const unsigned char* all = emulator::exchange("ballot", &predicate, sizeof predicate);
    unsigned result = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (emulator::lane_value<int>(all, i) != 0) result |= 1u << i;
    return result;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    emulator::require_all_lanes(mask);
    const unsigned char* all = emulator::exchange("match", &value, sizeof value);
    unsigned result = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (emulator::lane_value<T>(all, i) == value) result |= 1u << i;
    return result;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int atomicAdd(int* at, int value) {
    const int before = *at;
    *at += value;
    return before;
}
inline double rsqrt(double x) { return 1 / sqrt(x); }
