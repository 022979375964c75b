// Backward of min_distance. Every pair (image, prototype) adds
//   sqeuclidean: 2 g (self - other)                            to the pixels of its patch, or to the prototype
//   cosine:      g / |self| ((self^ - other^) - d self^)       with unit vectors self^, other^ and their distance d
//   dot:         g (0 self - other)
// Features: the prototypes of an image are sorted by patch, and a warp adds up those of one pixel, by patch and then in
// ascending order. Prototypes: a warp takes the images of one prototype in ascending order. So each sum has one order
// and no sum needs an atomic operation. Patches outside the grid add nothing.
#include "prepare.cuh"

namespace protokern::cuda {
namespace {

constexpr int warps = 8;
constexpr int tile_pixels = 32;
constexpr int tile_channels = 128;
constexpr int per_lane = tile_channels / 32;
constexpr int most_shared_cursors = 11 * 1024;

// Prototypes of image b by patch: order[b][start[b][n] .. start[b][n + 1]) are those of patch n, ascending.
struct Sorted {
    int* start;   // (B, N + 1)
    int* order;   // (B, P)
    int* cursor;  // (B, N) where it does not fit into shared memory
};

// One block per image: count, add up, place. The first warp places 32 prototypes at a time, so that they stay in order.
__global__ void __launch_bounds__(32 * warps)
    sort_kernel(const int64_t* patches, int64_t count, int positions, bool in_shared, Sorted sorted) {
    PROTOKERN_SHARED(memory);
    __shared__ int sums[32 * warps];
    const int64_t image = blockIdx.x;
    const int64_t* patch = patches + image * count;
    int* start = sorted.start + image * (static_cast<int64_t>(positions) + 1);
    int* order = sorted.order + image * count;
    int* cursor = in_shared ? reinterpret_cast<int*>(memory) : sorted.cursor + image * positions;
    const int thread = threadIdx.x;
    for (int n = thread; n < positions; n += 32 * warps) cursor[n] = 0;
    __syncthreads();
    for (int64_t p = thread; p < count; p += 32 * warps)
        if (patch[p] >= 0 && patch[p] < positions) atomicAdd(&cursor[patch[p]], 1);
    __syncthreads();
    const int share = (positions + 32 * warps - 1) / (32 * warps);
    const int first = thread * share < positions ? thread * share : positions;
    const int end = first + share < positions ? first + share : positions;
    int mine = 0;
    for (int n = first; n < end; ++n) mine += cursor[n];
    sums[thread] = mine;
    __syncthreads();
    int before = 0;
    for (int i = 0; i < thread; ++i) before += sums[i];
    for (int n = first; n < end; ++n) {
        const int here = cursor[n];
        start[n] = cursor[n] = before;
        before += here;
    }
    if (thread == 32 * warps - 1) start[positions] = before;
    __syncthreads();
    if (thread >= 32) return;
    for (int64_t base = 0; base < count; base += 32) {
        const int64_t n = base + thread < count ? patch[base + thread] : -1;
        const bool valid = n >= 0 && n < positions;
        const int at = valid ? static_cast<int>(n) : -1;
        const unsigned alike = __match_any_sync(all_lanes, at);
        const int rank = __popc(alike & ((1u << thread) - 1));
        if (valid) order[cursor[at] + rank] = static_cast<int>(base) + thread;
        __syncwarp();
        if (valid && rank == 0) cursor[at] += __popc(alike);
        __syncwarp();
    }
}

template <typename T>
struct Gradient {
    Pairs<T> pairs;
    const T* grad;         // (B, P)
    const T* distance;     // (B, P), for unit vectors only
    const int64_t* patch;  // (B, P)
    Sorted sorted;
    int64_t images, count;
    int height, patch_height;
    void* out;
    int64_t out_stride[4];  // of the features' gradient
};

// What one pair adds to a value of `self`, per its weight.
template <typename T>
__device__ T term(Metric metric, T self, T other, T self_scale, T other_scale, T distance) {
    if (is_product(metric)) return rounded_product(self, T(0)) - other;  // what is not finite stays visible
    if (!is_unit(metric)) return self - other;
    const T scaled = rounded_product(self, self_scale);
    return (scaled - rounded_product(other, other_scale)) - distance * scaled;
}

// Adds to `sum` what the prototypes [begin, end) of patch n give to this lane's channels of one pixel of it.
template <typename T>
__device__ void add_patch(const Gradient<T>& a, int64_t image, int n, int segment, int d0, const T (&x)[per_lane],
                          T (&sum)[per_lane]) {
    const int lane = threadIdx.x % 32;
    const bool unit = is_unit(a.pairs.metric);
    const bool product = is_product(a.pairs.metric);
    const int* start = a.sorted.start + image * (static_cast<int64_t>(a.pairs.positions) + 1) + n;
    const int end = start[1];
    const T x_scale = unit ? a.pairs.patch_scale[image * a.pairs.positions + n] : T(1);
    for (int begin = start[0]; begin < end; begin += 32) {
        const bool inside = begin + lane < end;
        const int my_p = inside ? a.sorted.order[image * a.count + begin + lane] : 0;
        const T g = inside ? a.grad[image * a.count + my_p] : T(0);
        const T my_weight = unit ? g * x_scale : product ? g : 2 * g;
        const T my_distance = unit && inside ? a.distance[image * a.count + my_p] : T(0);
        const T my_scale = unit && inside ? a.pairs.prototype_scale[my_p] : T(1);
        const int entries = end - begin < 32 ? end - begin : 32;
#pragma unroll 4
        for (int e = 0; e < entries; ++e) {
            const int p = __shfl_sync(all_lanes, my_p, e);
            const T weight = __shfl_sync(all_lanes, my_weight, e);
            const T distance = __shfl_sync(all_lanes, my_distance, e);
            const T p_scale = __shfl_sync(all_lanes, my_scale, e);
            const T* row = a.pairs.prototype_row(p, segment);
#pragma unroll
            for (int j = 0; j < per_lane; ++j) {
                const int d = d0 + 32 * j + lane;
                if (d < a.pairs.depth)
                    sum[j] = fma(weight, term(a.pairs.metric, x[j], row[d], x_scale, p_scale, distance), sum[j]);
            }
        }
    }
}

// A block takes 32 pixels x 128 channels of an image, through shared memory, so that it reads and writes along
// whichever of the two lies together in memory.
template <typename Memory, typename T>
__global__ void __launch_bounds__(32 * warps, 2) grad_features_kernel(Gradient<T> a, Source from) {
    __shared__ T tile[tile_channels][tile_pixels + 1];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const unsigned depth_tiles = (static_cast<unsigned>(from.depth) + tile_channels - 1) / tile_channels;
    const unsigned pixel_tiles = (static_cast<unsigned>(from.pixels) + tile_pixels - 1) / tile_pixels;
    const int d0 = static_cast<int>(blockIdx.x % depth_tiles) * tile_channels;
    const int first = static_cast<int>(blockIdx.x / depth_tiles % pixel_tiles) * tile_pixels;
    const int64_t image = blockIdx.x / depth_tiles / pixel_tiles;
    const Memory* data = static_cast<const Memory*>(from.data) + image * from.stride[0];
    const bool read_along_channels = from.stride[1] == 1;
    for (int i = threadIdx.x; i < tile_channels * tile_pixels; i += 32 * warps) {
        const int d = read_along_channels ? i % tile_channels : i / tile_pixels;
        const int pixel = read_along_channels ? i / tile_channels : i % tile_pixels;
        const bool inside = first + pixel < from.pixels && d0 + d < from.depth;
        tile[d][pixel] = inside ? value_at(from, data, first + pixel, d0 + d) : T(0);
    }
    __syncthreads();
    for (int pixel = warp; pixel < tile_pixels && first + pixel < from.pixels; pixel += warps) {
        const int r = (first + pixel) / from.width;
        const int c = (first + pixel) % from.width;
        T x[per_lane];
        T sum[per_lane] = {};
#pragma unroll
        for (int j = 0; j < per_lane; ++j) x[j] = tile[32 * j + lane][pixel];
        for (int s = 0; s < a.pairs.segments; ++s) {
            const int row = r - s / a.pairs.patch_width;
            const int column = c - s % a.pairs.patch_width;
            if (row < 0 || row > a.height - a.patch_height || column < 0 || column >= a.pairs.columns) continue;
            add_patch(a, image, row * a.pairs.columns + column, s, d0, x, sum);
        }
#pragma unroll
        for (int j = 0; j < per_lane; ++j) tile[32 * j + lane][pixel] = sum[j];
    }
    __syncthreads();
    const bool write_along_channels = a.out_stride[1] == 1;
    Memory* out = static_cast<Memory*>(a.out) + image * a.out_stride[0];
    for (int i = threadIdx.x; i < tile_channels * tile_pixels; i += 32 * warps) {
        const int d = write_along_channels ? i % tile_channels : i / tile_pixels;
        const int pixel = write_along_channels ? i / tile_channels : i % tile_pixels;
        if (first + pixel >= from.pixels || d0 + d >= from.depth) continue;
        narrow(tile[d][pixel], out + (d0 + d) * a.out_stride[1] +
                                   static_cast<int64_t>((first + pixel) / from.width) * a.out_stride[2] +
                                   static_cast<int64_t>((first + pixel) % from.width) * a.out_stride[3]);
    }
}

// A warp takes 128 channels of one pixel of a prototype.
template <typename Memory, typename T>
__global__ void __launch_bounds__(32 * warps, 2) grad_prototypes_kernel(Gradient<T> a) {
    const int lane = threadIdx.x % 32;
    const bool unit = is_unit(a.pairs.metric);
    const bool product = is_product(a.pairs.metric);
    const int depth = a.pairs.depth;
    const int depth_tiles = (depth + tile_channels - 1) / tile_channels;
    const int64_t task = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    const int d0 = static_cast<int>(task % depth_tiles) * tile_channels;
    const int segment = static_cast<int>(task / depth_tiles % a.pairs.segments);
    const int64_t p = task / depth_tiles / a.pairs.segments;
    if (p >= a.count) return;
    const T p_scale = unit ? a.pairs.prototype_scale[p] : T(1);
    T self[per_lane] = {};
    T sum[per_lane] = {};
#pragma unroll
    for (int j = 0; j < per_lane; ++j)
        if (d0 + 32 * j + lane < depth) self[j] = a.pairs.prototype_row(p, segment)[d0 + 32 * j + lane];
    for (int64_t begin = 0; begin < a.images; begin += 32) {
        const int64_t image = begin + lane;
        const bool inside = image < a.images;
        const int64_t n = inside ? a.patch[image * a.count + p] : -1;
        const int my_n = n >= 0 && n < a.pairs.positions ? static_cast<int>(n) : -1;
        const T g = my_n >= 0 ? a.grad[image * a.count + p] : T(0);
        const T my_weight = unit ? g * p_scale : product ? g : 2 * g;
        const T my_distance = unit && my_n >= 0 ? a.distance[image * a.count + p] : T(0);
        const T my_scale = unit && my_n >= 0 ? a.pairs.patch_scale[image * a.pairs.positions + my_n] : T(1);
        const int entries = a.images - begin < 32 ? static_cast<int>(a.images - begin) : 32;
#pragma unroll 4
        for (int e = 0; e < entries; ++e) {
            const int at = __shfl_sync(all_lanes, my_n, e);
            const T weight = __shfl_sync(all_lanes, my_weight, e);
            const T distance = __shfl_sync(all_lanes, my_distance, e);
            const T x_scale = __shfl_sync(all_lanes, my_scale, e);
            if (at < 0) continue;
            const T* x = a.pairs.patch_row(begin + e, at, segment);
#pragma unroll
            for (int j = 0; j < per_lane; ++j) {
                const int d = d0 + 32 * j + lane;
                if (d < depth)
                    sum[j] = fma(weight, term(a.pairs.metric, self[j], x[d], p_scale, x_scale, distance), sum[j]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
        const int d = d0 + 32 * j + lane;
        if (d < depth) narrow(sum[j], static_cast<Memory*>(a.out) + (p * depth + d) * a.pairs.segments + segment);
    }
}

template <typename T>
struct Backward {
    const Problem& problem;
    const Shape shape;
    const bool features, prototypes, unit;
    const Needs needs;
    Carver carver;
    const Prepared<T> prepared;
    Sorted sorted{};
    T* distance = nullptr;

    Backward(const Problem& problem, bool features, bool prototypes, void* workspace)
        : problem(problem),
          shape(problem),
          features(features),
          prototypes(prototypes),
          unit(is_unit(problem.metric)),
          needs{SearchForm::none, false, prototypes || unit, unit},
          carver(workspace),
          prepared(carver, problem, shape, needs) {
        if (features) {
            sorted.start = carver.take<int>(shape.images * (static_cast<int64_t>(shape.positions) + 1));
            sorted.order = carver.take<int>(shape.images * shape.prototypes);
            if (!in_shared()) sorted.cursor = carver.take<int>(shape.images * shape.positions);
        }
        if (unit) distance = carver.take<T>(shape.images * shape.prototypes);
    }

    bool in_shared() const { return shape.positions <= most_shared_cursors; }

    void run(const int64_t* patch, const T* grad, const GradientOutput& output, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        if (unit) pair_distances(prepared.pairs, shape.images, shape.prototypes, 1, patch, distance, stream);
        Gradient<T> gradient{prepared.pairs,   grad,         distance,           patch,           sorted, shape.images,
                             shape.prototypes, shape.height, shape.patch_height, output.features, {}};
        for (int i = 0; i < 4; ++i) gradient.out_stride[i] = output.features_stride[i];
        const Source x = source_of(problem.features);
        const int64_t depth_tiles = divide_up(shape.depth, tile_channels);
        with_dtype(problem.features.dtype, [&](auto memory) {
            using Memory = decltype(memory);
            if constexpr ((sizeof(Memory) == sizeof(double)) == (sizeof(T) == sizeof(double))) {
                if (features && shape.images > 0) {
                    PROTOKERN_LAUNCH("sort", (sort_kernel), blocks(shape.images), 32 * warps,
                                     in_shared() ? shape.positions * sizeof(int) : 0, stream, patch, shape.prototypes,
                                     shape.positions, in_shared(), sorted);
                    PROTOKERN_LAUNCH("grad_features", (grad_features_kernel<Memory, T>),
                                     blocks(shape.images * divide_up(shape.pixels, tile_pixels) * depth_tiles),
                                     32 * warps, 0, stream, gradient, x);
                }
                gradient.out = output.prototypes;
                if (prototypes && shape.prototypes > 0)
                    PROTOKERN_LAUNCH("grad_prototypes", (grad_prototypes_kernel<Memory, T>),
                                     blocks(divide_up(shape.prototypes * shape.segments * depth_tiles, warps)),
                                     32 * warps, 0, stream, gradient);
            }
        });
    }
};

}  // namespace

int64_t min_distance_backward_workspace(const Problem& problem, bool features, bool prototypes) {
    if (problem.features.dtype == DType::float64)
        return Backward<double>(problem, features, prototypes, nullptr).carver.used();
    return Backward<float>(problem, features, prototypes, nullptr).carver.used();
}

void min_distance_backward(const Problem& problem, const int64_t* patch, const void* grad_value,
                           const GradientOutput& output, void* workspace, cudaStream_t stream) {
    const bool features = output.features != nullptr;
    const bool prototypes = output.prototypes != nullptr;
    if (problem.features.dtype == DType::float64)
        Backward<double>(problem, features, prototypes, workspace)
            .run(patch, static_cast<const double*>(grad_value), output, stream);
    else
        Backward<float>(problem, features, prototypes, workspace)
            .run(patch, static_cast<const float*>(grad_value), output, stream);
}

}  // namespace protokern::cuda
