// Pairs of a patch and a prototype as one warp sees them: where their values lie, and their distance in difference
// form.
#pragma once

#include "device.cuh"

namespace protokern::cuda {

// Pixels and prototypes as rows of plain values, the caller's own memory where it already has that form.
template <typename T>
struct Pairs {
    const T* pixels;  // channels beside each other
    int64_t image_stride, pixel_stride;
    const T* prototypes;  // pixel s of a prototype at s * depth
    int64_t prototype_stride;
    // 1 / length for unit vectors and 0 for a zero vector, else 1; NaN for a vector that is not finite.
    const T* patch_scale;      // (B, N)
    const T* prototype_scale;  // (P)
    Metric metric;
    int depth, segments, patch_width, width, columns, positions;

    __device__ int64_t pixel(int position) const {
        return static_cast<int64_t>(position / columns) * width + position % columns;
    }
    __device__ const T* patch_row(int64_t image, int position, int segment) const {
        const int64_t at =
            pixel(position) + static_cast<int64_t>(segment / patch_width) * width + segment % patch_width;
        return pixels + image * image_stride + at * pixel_stride;
    }
    __device__ const T* prototype_row(int64_t prototype, int segment) const {
        return prototypes + prototype * prototype_stride + static_cast<int64_t>(segment) * depth;
    }
};

// Called by all lanes of a warp; all get the distance, whose bits depend on the pair alone. Under dot it is the
// negative product, which is what difference form means there. Unit vectors are made first, each product rounded: equal
// vectors give exactly 0.
template <typename T>
__device__ T pair_distance(const Pairs<T>& pairs, int64_t image, int position, int64_t prototype, int lane) {
    const T x_scale = pairs.patch_scale[image * pairs.positions + position];
    const T p_scale = pairs.prototype_scale[prototype];
    T sum = 0;
    for (int s = 0; s < pairs.segments; ++s) {
        const T* x = pairs.patch_row(image, position, s);
        const T* p = pairs.prototype_row(prototype, s);
        if (is_product(pairs.metric))
            for (int d = lane; d < pairs.depth; d += 32) sum = fma(x[d], p[d], sum);
        else if (is_unit(pairs.metric))
            for (int d = lane; d < pairs.depth; d += 32) {
                const T difference = rounded_product(x[d], x_scale) - rounded_product(p[d], p_scale);
                sum = fma(difference, difference, sum);
            }
        else
#pragma unroll 4
            for (int d = lane; d < pairs.depth; d += 32) {
                const T difference = x[d] - p[d];
                sum = fma(difference, difference, sum);
            }
    }
    sum = warp_sum(sum);
    if (x_scale != x_scale || p_scale != p_scale) return not_a_number<T>();
    if (pairs.metric == Metric::sqeuclidean) return sum;
    if (is_product(pairs.metric)) return -sum;
    return x_scale == T(0) || p_scale == T(0) ? T(1) : T(0.5) * sum;
}

// Distances (B, P, m) at the patches (B, P, m), with m `per_pair`. A position outside the grid gives NaN.
template <typename T>
void pair_distances(const Pairs<T>& pairs, int64_t images, int64_t count, int64_t per_pair, const int64_t* patch,
                    T* distance, cudaStream_t stream);

// Distances (B, P, N) of some images from `first` on. A product cancels where a difference does not, so products have
// the bits of pair_distance; the others come from tiles.
template <typename T>
void all_distances(const Pairs<T>& pairs, int64_t first, int64_t images, int64_t count, T* distance,
                   cudaStream_t stream);

}  // namespace protokern::cuda
