// The inputs in working form: rows of plain values, rows for the search (centred or normalised, rounded), and norms.
#pragma once

#include "pairs.cuh"

namespace protokern::cuda {

// How the rows for the search are stored. `values` are as wide as T; a word of `bf16` holds two channels.
enum class SearchForm { none, values, tf32, bf16 };

// The score of a patch is bias + scale * product; the smallest wins.
template <typename T>
struct alignas(2 * sizeof(T)) Rank {
    T bias, scale;
};

constexpr int rank_block = 128;  // ranks of an image are filled up to a multiple of this, with scores of infinity

// Features or prototypes as the caller has them.
struct Source {
    const void* data;
    int64_t stride[4];
    int64_t count;  // images or prototypes
    int pixels, depth, width;
};

// The element of channel d at a pixel of one image or prototype.
template <typename Memory>
__device__ auto value_at(const Source& from, const Memory* data, int pixel, int d) {
    return widen(data[d * from.stride[1] + static_cast<int64_t>(pixel / from.width) * from.stride[2] +
                      static_cast<int64_t>(pixel % from.width) * from.stride[3]]);
}

inline Source source_of(const Array4& array) {
    return {array.data,
            {array.stride[0], array.stride[1], array.stride[2], array.stride[3]},
            array.size[0],
            static_cast<int>(array.size[2] * array.size[3]),
            static_cast<int>(array.size[1]),
            static_cast<int>(array.size[3])};
}

struct Needs {
    SearchForm search;  // also asks for ranks, largest and first_bad
    bool as_given;      // search the values as they are, not centred or normalised, for their form holds them exactly
    bool pixels;        // rows of the features
    bool scales;        // patch_scale and prototype_scale
};

// Pieces of the workspace, or null where not needed.
template <typename T>
struct Prepared {
    Pairs<T> pairs;
    T* own_pixels;
    T* own_prototypes;
    void* pixel_search;      // (B, H W, search_width)
    void* prototype_search;  // (P, S, search_width)
    int search_width;        // T or 32-bit words per pixel, a multiple of 8
    T* centre;               // (D), or null: sqeuclidean only
    double* pixel_norm;      // (B, H W), minus the centre; NaN where a value is not finite
    T* patch_scale;          // (B, N)
    T* prototype_scale;      // (P)
    T* prototype_length;     // (P): norm of what is searched
    Rank<T>* ranks;          // (B, padded_positions)
    int padded_positions;
    T* largest;      // (B): largest norm of a searched patch; with weights the root of the largest |x|^2 - log w
    int* first_bad;  // (B): first position whose patch is not finite or has no valid weight, 0 if no patch has a weight
                     // above 0, else -1
    const T* weight;    // (B, N), or null
    int* first_usable;  // (B): first position with a weight above 0; null without weights

    Prepared(Carver& carver, const Problem& problem, const Shape& shape, const Needs& needs);
    void run(const Problem& problem, const Shape& shape, const Needs& needs, cudaStream_t stream) const;
};

}  // namespace protokern::cuda
