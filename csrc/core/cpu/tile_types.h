// What one instruction set offers for ops that need every distance of an image, a tile of positions x lanes at a time:
// means over the grid, their gradient, and the k nearest. As in types.h, nothing here is compiled to code.
#pragma once

#include <cstdint>

#include "types.h"

namespace protokern::cpu {

constexpr int64_t tile_rows = 64;  // most positions of a tile

// Distances in expanded form, row_bias + row_scale * dot + lane_bias, of some positions of one image to one panel.
template <typename T>
struct TileDistances {
    const T* pixels;  // of the image, centred
    int64_t rows;
    const int64_t* row;  // (rows): offsets of the positions' patches
    const int64_t* segment;
    int64_t segments;
    int64_t padded_depth;
    const T* row_bias;   // (rows)
    const T* row_scale;  // (rows)
    const T* lane_bias;  // (lanes)
    const void* panel;
    T closeness;      // a pair is close below closeness * (row_bias + lane_bias)
    T* distance;      // (rows, lanes)
    uint64_t* close;  // (rows): the lanes that are close, or whose distance is NaN
};

// sum[lane] += activations of the lane's distances.
template <typename T>
struct TileActivations {
    Activation kind;
    T epsilon;
    int64_t group;  // distances per logarithm, such that products of as many stay in range
    const T* distance;
    int64_t rows;
    T* sum;  // (lanes)
};

// weight[row, lane] = grad[lane] * derivative of the activation at the distance, in place.
template <typename T>
struct TileWeights {
    Activation kind;
    T epsilon;
    const T* grad;  // (lanes)
    int64_t rows;
    T* tile;  // (rows, lanes)
};

// out[i] += sum_j factor[i * factor_stride + j * factor_step] * other[j], j ascending.
template <typename T>
struct TileProduct {
    const T* factor;
    int64_t factor_stride;
    int64_t factor_step;
    const T* const* other;  // (terms): rows of `padded_depth` values
    int64_t terms;
    int64_t padded_depth;
    T* out;
    int64_t out_stride;
    int64_t rows;
};

// Puts the scores of a tile among the smallest `slots` of each lane, ascending; on a tie the earlier position first.
template <typename T>
struct TileBest {
    const T* score;  // (rows, lanes)
    int64_t rows;
    int64_t first;  // position number of row 0
    int64_t slots;
    T* best;                             // (slots, lanes)
    typename LaneIndex<T>::type* index;  // (slots, lanes)
};

template <typename T>
struct TileKernels {
    Kernels<T> plain;  // panels as the tiles want them, in full precision
    void (*distances)(const TileDistances<T>&);
    void (*add_activations)(const TileActivations<T>&);
    void (*weigh)(const TileWeights<T>&);
    void (*add_product)(const TileProduct<T>&);
    void (*keep_best)(const TileBest<T>&);
};

struct TileKernelSet {
    TileKernels<float> float32;
    TileKernels<double> float64;
};

}  // namespace protokern::cpu
