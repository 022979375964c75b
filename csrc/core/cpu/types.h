// Plain types shared by the drivers, the per-instruction-set kernels and the callers of the CPU core.
// No torch, no Python. Kernel files are built with different instruction sets, so a shared function could end up in the
// library in a form that older processors cannot run: nothing here but constexpr is compiled to code.
//
// Letters: B images, D depth (channels), H x W pixels of a feature map, P prototypes, h x w pixels of a patch,
// S = h * w pixels per patch ("segments"), N positions of a patch in the map.
#pragma once

#include <cstdint>

#include "metric.h"
#include "similarity.h"

namespace protokern::cpu {

using protokern::Activation;
using protokern::Metric;

enum class DType { float64, float32, bfloat16, float16 };
// How the search multiplies: bf16 takes every value rounded to bfloat16. Distances are exact either way.
enum class SearchPrecision { fp32, bf16 };

// (B, D, H, W) features or (P, D, h, w) prototypes; strides in elements, in this order, may be 0.
struct Array4 {
    const void* data;
    DType dtype;
    int64_t size[4];
    int64_t stride[4];
};

constexpr int64_t element_bytes(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// The element type that a dtype is computed in: double for float64, float for the rest.
// Position numbers travel through the SIMD lanes next to the distances, so they are as wide.
template <typename T>
struct LaneIndex;
template <>
struct LaneIndex<float> {
    using type = int32_t;
};
template <>
struct LaneIndex<double> {
    using type = int64_t;
};

// Reads `count` pixels of one image, in row-major order from pixel `first`, into rows of `padded_depth` values.
template <typename T>
struct PixelLoad {
    const void* image;
    DType dtype;
    int64_t depth;
    int64_t padded_depth;
    int64_t width;
    int64_t stride_depth;
    int64_t stride_height;
    int64_t stride_width;
    int64_t first;
    int64_t count;
    T* pixels;  // (count, padded_depth), zero beyond `depth`
};

// Squared norms of rows of `padded_depth` values, minus a centre where there is one.
template <typename T>
struct RowMeasure {
    const T* rows;  // (count, padded_depth)
    int64_t count;
    int64_t padded_depth;
    const T* centre;  // (padded_depth), or null
    T* centred;       // (count, padded_depth) rows minus centre, unused without one; null: only norms are wanted
    double* norm;     // (count), NaN where a value is not finite; may be inf for large finite values
};

// Writes rows of gradients back to an image of any strides.
template <typename T>
struct PixelStore {
    const T* pixels;  // (count, padded_depth)
    void* image;
    DType dtype;
    int64_t depth;
    int64_t padded_depth;
    int64_t width;
    int64_t stride_depth;
    int64_t stride_height;
    int64_t stride_width;
    int64_t count;
};

// Patches of some images as the search sees them. Row n of an image starts at pixels + image * image_stride + row[n]
// and consists of `segments` runs of `padded_depth` values, run s at offset segment[s].
template <typename T>
struct PatchRows {
    const T* pixels;
    int64_t image_stride;
    int64_t images;
    int64_t rows;        // per image
    int64_t first;       // position number of row 0
    const int64_t* row;  // (rows)
    const int64_t* segment;
    int64_t segments;
    int64_t padded_depth;
    const T* bias;       // (images, rows): score = bias + scale * dot, smallest wins
    const T* scale;      // (images, rows)
    const T* centre;     // (padded_depth), what pack_rows is to subtract from the pixels; null: nothing
    int64_t prototypes;  // in the panel; lanes beyond need no result
    // Memory that will be needed after this search, to be brought near on the way; may be empty.
    const char* ahead[2];
    int64_t ahead_bytes[2];
};

// The running result of a search for one panel of prototypes: (images, lanes) each.
template <typename T>
struct SearchState {
    T* best;
    T* second;  // smallest score but one; equals `best` on a tie
    typename LaneIndex<T>::type* index;
};

// Distances of `count` pairs (patch, prototype), in difference form; every entry point uses it, so they agree in all
// bits.
template <typename T>
struct PairDistance {
    Metric metric;
    const T* const* patch;            // (count)
    const T* const* prototype;        // (count)
    const T* patch_inverse_norm;      // (count), for unit vectors only; 0 for a zero vector
    const T* prototype_inverse_norm;  // (count), likewise
    int64_t count;
    const int64_t* segment;
    int64_t segments;
    int64_t padded_depth;
    T* distance;  // (count)
};

// out += sum_j weight[j] * (self_scale[j] * self - other_scale[j] * other[j]), j ascending; rows of `padded_depth`.
// Without scales (null) both are 1.
template <typename T>
struct Accumulate {
    T* out;
    const T* self;
    const T* const* other;
    const T* weight;
    const T* self_scale;
    const T* other_scale;
    int64_t count;
    int64_t padded_depth;
};

// What one instruction set offers for one element type and one precision of the search.
template <typename T>
struct Kernels {
    int lanes;         // prototypes per panel; 0 where the instruction set has no such search
    bool exact;        // scores too close to call are to be decided by the distances; else the search has the last word
    double dot_error;  // bound of the error of one product, relative, beyond the rounding of the sum
    int products;      // terms that the search adds up per pair of values
    int64_t (*panel_bytes)(int64_t padded_length);
    // Packs up to `lanes` prototypes of `padded_length` values each, row p at rows + p * row_stride.
    void (*pack_panel)(const T* rows, int64_t row_stride, int64_t count, int64_t padded_length, void* panel);
    int64_t (*row_bytes)(int64_t rows, int64_t padded_length);  // scratch for pack_rows; 0: the search reads the pixels
    void (*pack_rows)(const PatchRows<T>&, void* packed);
    void (*search)(const PatchRows<T>&, const void* packed, const void* panel, const SearchState<T>&);
    void (*load_pixels)(const PixelLoad<T>&);
    void (*measure_rows)(const RowMeasure<T>&);
    void (*store_pixels)(const PixelStore<T>&);
    void (*pair_distance)(const PairDistance<T>&);
    void (*accumulate)(const Accumulate<T>&);
    void (*activate)(Activation, double epsilon, const T* distance, T* activation, int64_t count);
};

struct TileKernelSet;  // tile_types.h

struct InstructionSet {
    const char* name;
    const Kernels<float>* float32;
    const Kernels<double>* float64;
    Kernels<float> bfloat16;                 // as float32, with a search of rounded values
    double (*fma_loop)(int64_t iterations);  // runs independent float32 FMAs, returns how many operations they were
    const TileKernelSet* tiles;
};

}  // namespace protokern::cpu
