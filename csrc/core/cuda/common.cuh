// Shared by the launchers: sizes, the carving of the workspace, and launches that are checked.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "launch.h"

// PROTOKERN_LAUNCH(kernel, grid, block, shared bytes, stream, arguments...). A template's commas need parentheses.
#ifdef PROTOKERN_EMULATED
#define PROTOKERN_START(kernel, grid, block, shared, stream, ...) \
    emulator::launch(grid, block, shared, stream, [&] { kernel(__VA_ARGS__); })
#define PROTOKERN_SHARED(name) unsigned char* name = emulator::shared_memory()
#else
#define PROTOKERN_START(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define PROTOKERN_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif
#define PROTOKERN_LAUNCH(name, kernel, grid, block, shared, stream, ...)            \
    do {                                                                            \
        PROTOKERN_START((kernel), grid, block, shared, stream, __VA_ARGS__);        \
        ::protokern::cuda::check(cudaGetLastError(), "the launch of kernel " name); \
    } while (false)

namespace protokern::cuda {

inline void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// One dimension of blocks; more than a launch can have is refused rather than cut off.
inline dim3 blocks(int64_t count) {
    if (count > 0x7fffffff) throw std::runtime_error("CUDA: the problem needs more blocks than a launch can have.");
    return dim3(static_cast<unsigned>(count));
}

// Hands out consecutive aligned pieces of the workspace; without memory it only adds them up.
class Carver {
  public:
    explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
    template <typename U>
    U* take(int64_t count) {
        U* piece = base_ ? reinterpret_cast<U*>(base_ + used_) : nullptr;
        used_ += round_up(count * static_cast<int64_t>(sizeof(U)), 256);
        return piece;
    }
    int64_t used() const { return used_; }

  private:
    char* base_;
    int64_t used_ = 0;
};

// Sizes that every kernel derives from a problem. Numbers of pixels and positions of one image fit 31 bits.
struct Shape {
    int64_t images, prototypes, pixels;  // pixels of an image
    int depth, height, width, patch_height, patch_width;
    int rows, columns, positions;  // grid of patches
    int segments;                  // pixels per patch

    explicit Shape(const Problem& problem)
        : images(problem.features.size[0]),
          prototypes(problem.prototypes.size[0]),
          pixels(problem.features.size[2] * problem.features.size[3]) {
        const int64_t* x = problem.features.size;
        const int64_t* p = problem.prototypes.size;
        if (pixels > 0x7fffff00 || x[1] * p[2] * p[3] > 0x7fffff00)
            throw std::runtime_error("features: images and patches must have less than 2^31 cells or values.");
        depth = static_cast<int>(x[1]);
        height = static_cast<int>(x[2]);
        width = static_cast<int>(x[3]);
        patch_height = static_cast<int>(p[2]);
        patch_width = static_cast<int>(p[3]);
        rows = height - patch_height + 1;
        columns = width - patch_width + 1;
        positions = rows * columns;
        segments = patch_height * patch_width;
    }
};

// Calls body with a value of the type that stands for the dtype in memory; halves are plain bits.
struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

template <typename Body>
void with_dtype(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::float64:
            return body(double());
        case DType::float32:
            return body(float());
        case DType::bfloat16:
            return body(BFloat16());
        case DType::float16:
            return body(Float16());
    }
}

}  // namespace protokern::cuda
