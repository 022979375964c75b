// Sums over the channels for a tile of 64 prototypes x 64 patches, by plain multiply-adds: every type, every processor.
#pragma once

#include "pairs.cuh"

namespace protokern::cuda {

enum class Term { product, difference };

// Patches of one image and prototypes as rows; segment s of a patch is `depth` values of one pixel.
template <typename T>
struct TileRows {
    const T* pixels;
    int64_t image_stride, pixel_stride;
    const T* prototypes;
    int64_t prototype_stride;
    const T* patch_scale;      // (B, N): factors of the values, NaN for what is not finite; or null
    const T* prototype_scale;  // (P)
    int64_t count;             // prototypes
    int positions, columns, image_width, patch_width, segments, depth;
};

constexpr int tile_side = 64;
constexpr int tile_threads = 256;
constexpr int tile_depth = 16;
constexpr int tile_row = tile_side + 4;

// A thread's sums are those of prototypes 4 * (thread / 16) + i and patches 4 * (thread % 16) + j.
template <typename T>
struct Tile {
    T sum[4][4];
};

template <typename T>
struct TileMemory {
    alignas(32) T x[tile_depth][tile_row];
    alignas(32) T p[tile_depth][tile_row];
};

// Called by all threads of a block of 256; adds up in the order of the segments and channels.
template <Term term, typename T>
__device__ void add_tile(const TileRows<T>& rows, int64_t image, int64_t first_p, int first_n, TileMemory<T>& memory,
                         Tile<T>& tile) {
    const int thread = threadIdx.x;
    const int k = thread % tile_depth;
    const T* x[4];
    const T* p[4];
    T x_scale[4];
    T p_scale[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int r = thread / tile_depth + i * 16;
        const int n = first_n + r < rows.positions ? first_n + r : rows.positions - 1;
        const int64_t which = first_p + r < rows.count ? first_p + r : rows.count - 1;
        x[i] = rows.pixels + image * rows.image_stride +
               (static_cast<int64_t>(n / rows.columns) * rows.image_width + n % rows.columns) * rows.pixel_stride + k;
        p[i] = rows.prototypes + which * rows.prototype_stride + k;
        x_scale[i] = rows.patch_scale ? rows.patch_scale[image * rows.positions + n] : T(1);
        p_scale[i] = rows.prototype_scale ? rows.prototype_scale[which] : T(1);
#pragma unroll
        for (int j = 0; j < 4; ++j) tile.sum[i][j] = 0;
    }
    for (int s = 0; s < rows.segments; ++s) {
        const int64_t x_at =
            (static_cast<int64_t>(s / rows.patch_width) * rows.image_width + s % rows.patch_width) * rows.pixel_stride;
        const int64_t p_at = static_cast<int64_t>(s) * rows.depth;
        for (int d = 0; d < rows.depth; d += tile_depth) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = thread / tile_depth + i * 16;
                const bool inside = d + k < rows.depth;
                memory.x[k][r] = inside ? rounded_product(x[i][x_at + d], x_scale[i]) : T(0);
                memory.p[k][r] = inside ? rounded_product(p[i][p_at + d], p_scale[i]) : T(0);
            }
            __syncthreads();
#pragma unroll
            for (int c = 0; c < tile_depth; ++c) {
                T a[4];
                T b[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    a[i] = memory.p[c][thread / 16 * 4 + i];
                    b[i] = memory.x[c][thread % 16 * 4 + i];
                }
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        if constexpr (term == Term::product) {
                            tile.sum[i][j] = fma(a[i], b[j], tile.sum[i][j]);
                        } else {
                            const T difference = b[j] - a[i];
                            tile.sum[i][j] = fma(difference, difference, tile.sum[i][j]);
                        }
            }
            __syncthreads();
        }
    }
}

// Rows for distances in difference form.
template <typename T>
TileRows<T> tile_rows(const Pairs<T>& pairs, int64_t count) {
    return {pairs.pixels,           pairs.image_stride, pairs.pixel_stride,    pairs.prototypes,
            pairs.prototype_stride, pairs.patch_scale,  pairs.prototype_scale, count,
            pairs.positions,        pairs.columns,      pairs.width,           pairs.patch_width,
            pairs.segments,         pairs.depth};
}

// The same from image `first` on.
template <typename T>
TileRows<T> tile_rows(const Pairs<T>& pairs, int64_t count, int64_t first) {
    TileRows<T> rows = tile_rows(pairs, count);
    rows.pixels += first * rows.image_stride;
    rows.patch_scale += first * rows.positions;
    return rows;
}

// The distance of a pair whose squared differences add up to `sum`; see pair_distance.
template <typename T>
__device__ T tile_distance(const TileRows<T>& rows, int64_t image, int64_t p, int n, T sum, bool is_unit) {
    const T x_scale = rows.patch_scale[image * rows.positions + n];
    const T p_scale = rows.prototype_scale[p];
    if (x_scale != x_scale || p_scale != p_scale) return not_a_number<T>();
    if (!is_unit) return sum;
    return x_scale == T(0) || p_scale == T(0) ? T(1) : T(0.5) * sum;
}

// Distances (B, P, N) of some images, in difference form.
template <typename T>
void distance_tiles(const TileRows<T>& rows, int64_t images, bool is_unit, T* distance, cudaStream_t stream);

}  // namespace protokern::cuda
