// Gradient of mean_activation. Every pair (patch, prototype) of an image adds, with w = g * slope of the activation /
// N, what it adds in backward.cu with g = w; here all pairs do. The distances of some images at a time are computed
// again into a piece of memory of fixed size.
//
// Features: a block owns 64 pixels x 64 channels and takes the prototypes in ascending order. Prototypes: a block owns
// 64 prototypes x 64 channels of one pixel and takes the positions of a share of the images in ascending order; shares
// are added up in their order. So each sum has one order. All terms are differences: they vanish at a copy.
#include "maths.cuh"
#include "prepare.cuh"
#include "tile.cuh"

namespace protokern::cuda {
namespace {

constexpr int64_t map_bytes = 16 << 20;
constexpr int64_t most_share_bytes = 16 << 20;
constexpr int64_t most_shares = 16;
constexpr int side = 64;
constexpr int depth_step = 16;
constexpr int row = side + 4;
constexpr int threads = 256;
constexpr Needs needs{SearchForm::none, false, true, true};

template <typename T>
struct MeanGradient {
    Pairs<T> pairs;
    const T* grad;      // (B, P)
    const T* distance;  // (images, P, N) of the images from `first` on
    int64_t first, images, count;
    int height, patch_height;
    Activation kind;
    T epsilon;
    bool is_unit;
};

template <typename T>
__device__ T weight_of(const MeanGradient<T>& a, int64_t image, int64_t p, T distance) {
    const T g = a.grad[(a.first + image) * a.count + p] / static_cast<T>(a.pairs.positions);
    const T weight = g * slope_of<Maths>(a.kind, distance, a.epsilon);
    return a.is_unit ? weight : 2 * weight;
}

// 16 terms for a tile of 64 owners x 64 channels: weights and distances of every owner, values of every other.
template <typename T>
struct Terms {
    alignas(32) T weight[depth_step][row];
    alignas(32) T distance[depth_step][row];  // 0 unless vectors are unit vectors
    alignas(32) T other[depth_step][row];
};

// sum += weight * ((self - other) - distance * self) for owners 4 * (thread / 16) + i, channels 4 * (thread % 16) + j.
template <typename T>
__device__ void add_terms(const Terms<T>& terms, const T (&self)[4][4], T (&sum)[4][4]) {
#pragma unroll
    for (int k = 0; k < depth_step; ++k) {
        T weight[4];
        T distance[4];
        T other[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            weight[i] = terms.weight[k][threadIdx.x / 16 * 4 + i];
            distance[i] = terms.distance[k][threadIdx.x / 16 * 4 + i];
            other[i] = terms.other[k][threadIdx.x % 16 * 4 + i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const T difference = fma(-distance[i], self[i][j], self[i][j] - other[j]);
                sum[i][j] = fma(weight[i], difference, sum[i][j]);
            }
    }
}

template <typename Memory, typename T>
__global__ void __launch_bounds__(threads, sizeof(T) == sizeof(float) ? 2 : 1)
    mean_grad_features_kernel(MeanGradient<T> a, Source from, Memory* out, int64_t out_image, int64_t out_depth,
                              int64_t out_height, int64_t out_width, int d_tiles, int pixel_tiles) {
    __shared__ Terms<T> terms;
    const int depth = a.pairs.depth;
    const int d0 = static_cast<int>(blockIdx.x % d_tiles) * side;
    const int first = static_cast<int>(blockIdx.x / d_tiles % pixel_tiles) * side;
    const int64_t image = blockIdx.x / d_tiles / pixel_tiles;
    const int my_d = d0 + static_cast<int>(threadIdx.x) % 16 * 4;
    T total[4][4] = {};
    for (int s = 0; s < a.pairs.segments; ++s) {
        // The position whose pixel s a pixel is, or -1.
        const auto position = [&](int pixel) {
            const int r = pixel / from.width - s / a.pairs.patch_width;
            const int c = pixel % from.width - s % a.pairs.patch_width;
            const bool inside =
                pixel < from.pixels && r >= 0 && r <= a.height - a.patch_height && c >= 0 && c < a.pairs.columns;
            return inside ? r * a.pairs.columns + c : -1;
        };
        T self[4][4];
        T scale[4];
        T sum[4][4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = position(first + static_cast<int>(threadIdx.x) / 16 * 4 + i);
            scale[i] = a.is_unit && n >= 0 ? a.pairs.patch_scale[(a.first + image) * a.pairs.positions + n] : T(1);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                self[i][j] = n >= 0 && my_d + j < depth
                                 ? rounded_product(a.pairs.patch_row(a.first + image, n, s)[my_d + j], scale[i])
                                 : T(0);
        }
        for (int64_t p0 = 0; p0 < a.count; p0 += depth_step) {
            for (int i = threadIdx.x; i < depth_step * side; i += threads) {
                const int64_t p = p0 + i / side;
                const int n = position(first + i % side);
                const bool inside = p < a.count && n >= 0;
                const T d = inside ? a.distance[(image * a.count + p) * a.pairs.positions + n] : T(0);
                terms.weight[i / side][i % side] = inside ? weight_of(a, image, p, d) : T(0);
                terms.distance[i / side][i % side] = a.is_unit ? d : T(0);
                const bool valid = p < a.count && d0 + i % side < depth;
                const T scale_p = a.is_unit && valid ? a.pairs.prototype_scale[p] : T(1);
                terms.other[i / side][i % side] =
                    valid ? rounded_product(a.pairs.prototype_row(p, s)[d0 + i % side], scale_p) : T(0);
            }
            __syncthreads();
            add_terms(terms, self, sum);
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) total[i][j] = fma(sum[i][j], scale[i], total[i][j]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int pixel = first + static_cast<int>(threadIdx.x) / 16 * 4 + i;
        if (pixel >= from.pixels) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (my_d + j < depth)
                narrow(total[i][j], out + (a.first + image) * out_image + (my_d + j) * out_depth +
                                        static_cast<int64_t>(pixel / from.width) * out_height +
                                        static_cast<int64_t>(pixel % from.width) * out_width);
    }
}

// Adds to shares (shares, P, S, D); image i of these goes to share i * shares / images.
template <typename T>
__global__ void __launch_bounds__(threads, sizeof(T) == sizeof(float) ? 2 : 1)
    mean_grad_prototypes_kernel(MeanGradient<T> a, int64_t shares, int d_tiles, int64_t p_tiles, T* sums) {
    __shared__ Terms<T> terms;
    const int depth = a.pairs.depth;
    const int d0 = static_cast<int>(blockIdx.x % d_tiles) * side;
    const int s = static_cast<int>(blockIdx.x / d_tiles % a.pairs.segments);
    const int64_t first_p = blockIdx.x / d_tiles / a.pairs.segments % p_tiles * side;
    const int64_t share = blockIdx.x / d_tiles / a.pairs.segments / p_tiles;
    const int my_d = d0 + static_cast<int>(threadIdx.x) % 16 * 4;
    const int64_t my_p = first_p + threadIdx.x / 16 * 4;
    T self[4][4];
    T scale[4];
    T sum[4][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        scale[i] = a.is_unit && my_p + i < a.count ? a.pairs.prototype_scale[my_p + i] : T(1);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            self[i][j] = my_p + i < a.count && my_d + j < depth
                             ? rounded_product(a.pairs.prototype_row(my_p + i, s)[my_d + j], scale[i])
                             : T(0);
    }
    const int64_t begin = (share * a.images + shares - 1) / shares;
    const int64_t end = ((share + 1) * a.images + shares - 1) / shares;
    for (int64_t image = begin; image < end; ++image)
        for (int n0 = 0; n0 < a.pairs.positions; n0 += depth_step) {
            for (int i = threadIdx.x; i < depth_step * side; i += threads) {
                // Distances lie along the positions, values along the channels.
                const int n = n0 + i % depth_step;
                const int64_t p = first_p + i / depth_step;
                const bool inside = n < a.pairs.positions && p < a.count;
                const T d = inside ? a.distance[(image * a.count + p) * a.pairs.positions + n] : T(0);
                terms.weight[i % depth_step][i / depth_step] = inside ? weight_of(a, image, p, d) : T(0);
                terms.distance[i % depth_step][i / depth_step] = a.is_unit ? d : T(0);
                const int at = n0 + i / side;
                const bool valid = at < a.pairs.positions && d0 + i % side < depth;
                const T scale_x =
                    a.is_unit && valid ? a.pairs.patch_scale[(a.first + image) * a.pairs.positions + at] : T(1);
                terms.other[i / side][i % side] =
                    valid ? rounded_product(a.pairs.patch_row(a.first + image, at, s)[d0 + i % side], scale_x) : T(0);
            }
            __syncthreads();
            add_terms(terms, self, sum);
            __syncthreads();
        }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (my_p + i >= a.count || my_d + j >= depth) continue;
            T* to = sums + ((share * a.count + my_p + i) * a.pairs.segments + s) * depth + my_d + j;
            *to = fma(sum[i][j], scale[i], *to);
        }
}

template <typename Memory, typename T>
__global__ void __launch_bounds__(threads)
    mean_store_kernel(const T* sums, int64_t shares, int64_t all, int segments, int depth, Memory* out) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= all) return;
    T total = 0;
    for (int64_t share = 0; share < shares; ++share) total += sums[share * all + at];
    const int64_t d = at % depth;
    const int64_t s = at / depth % segments;
    narrow(total, out + (at / depth / segments * depth + d) * segments + s);
}

template <typename T>
struct MeanBackward {
    const Problem& problem;
    const Shape shape;
    const bool features, prototypes;
    Carver carver;
    const Prepared<T> prepared;
    int64_t images_at_a_time, shares;
    T* map;
    T* sums = nullptr;

    MeanBackward(const Problem& problem, bool features, bool prototypes, void* workspace)
        : problem(problem),
          shape(problem),
          features(features),
          prototypes(prototypes),
          carver(workspace),
          prepared(carver, problem, shape, needs) {
        const int64_t bytes = sizeof(T);
        const int64_t of_image = shape.prototypes * shape.positions;
        const int64_t fitting = map_bytes / (of_image > 0 ? of_image * bytes : 1);
        images_at_a_time = fitting < 1 ? 1 : fitting < shape.images ? fitting : shape.images;
        map = carver.take<T>(images_at_a_time * of_image);
        const int64_t small = values() > 0 ? most_share_bytes / (values() * bytes) : 1;
        shares = small < 1 ? 1 : small < most_shares ? small : most_shares;
        if (images_at_a_time > 0 && shares > images_at_a_time) shares = images_at_a_time;
        if (prototypes) sums = carver.take<T>(shares * values());
    }

    int64_t values() const { return shape.prototypes * shape.segments * shape.depth; }

    void run(const Similarity& similarity, const T* grad, const GradientOutput& output, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        if (prototypes)
            check(cudaMemsetAsync(sums, 0, shares * values() * sizeof(T), stream), "clearing the workspace");
        const bool unit = is_unit(problem.metric);
        for (int64_t first = 0; first < shape.images; first += images_at_a_time) {
            const int64_t images = shape.images - first < images_at_a_time ? shape.images - first : images_at_a_time;
            if (shape.prototypes > 0)
                distance_tiles(tile_rows(prepared.pairs, shape.prototypes, first), images, unit, map, stream);
            const MeanGradient<T> gradient{prepared.pairs,
                                           grad,
                                           map,
                                           first,
                                           images,
                                           shape.prototypes,
                                           shape.height,
                                           shape.patch_height,
                                           similarity.kind,
                                           static_cast<T>(similarity.epsilon),
                                           unit};
            if (features) add_features(gradient, output, stream);
            if (prototypes && shape.prototypes > 0) add_prototypes(gradient, stream);
        }
        if (prototypes && shape.prototypes > 0) store(output, stream);
    }

    template <typename Body>
    void with_memory(const Body& body) const {
        with_dtype(problem.features.dtype, [&](auto memory) {
            if constexpr ((sizeof(memory) == sizeof(double)) == (sizeof(T) == sizeof(double))) body(memory);
        });
    }

    void add_features(const MeanGradient<T>& gradient, const GradientOutput& output, cudaStream_t stream) const {
        const int64_t d_tiles = divide_up(shape.depth, side);
        const int64_t pixel_tiles = divide_up(shape.pixels, side);
        const int64_t* stride = output.features_stride;
        with_memory([&](auto memory) {
            using Memory = decltype(memory);
            PROTOKERN_LAUNCH("mean_grad_features", (mean_grad_features_kernel<Memory, T>),
                             blocks(gradient.images * pixel_tiles * d_tiles), threads, 0, stream, gradient,
                             source_of(problem.features), static_cast<Memory*>(output.features), stride[0], stride[1],
                             stride[2], stride[3], static_cast<int>(d_tiles), static_cast<int>(pixel_tiles));
        });
    }

    void add_prototypes(const MeanGradient<T>& gradient, cudaStream_t stream) const {
        const int64_t d_tiles = divide_up(shape.depth, side);
        const int64_t p_tiles = divide_up(shape.prototypes, side);
        PROTOKERN_LAUNCH("mean_grad_prototypes", (mean_grad_prototypes_kernel<T>),
                         blocks(shares * p_tiles * shape.segments * d_tiles), threads, 0, stream, gradient, shares,
                         static_cast<int>(d_tiles), p_tiles, sums);
    }

    void store(const GradientOutput& output, cudaStream_t stream) const {
        with_memory([&](auto memory) {
            using Memory = decltype(memory);
            PROTOKERN_LAUNCH("mean_store", (mean_store_kernel<Memory, T>), blocks(divide_up(values(), threads)),
                             threads, 0, stream, sums, shares, values(), shape.segments, shape.depth,
                             static_cast<Memory*>(output.prototypes));
        });
    }
};

}  // namespace

int64_t mean_activation_backward_workspace(const Problem& problem, bool features, bool prototypes) {
    if (problem.features.dtype == DType::float64)
        return MeanBackward<double>(problem, features, prototypes, nullptr).carver.used();
    return MeanBackward<float>(problem, features, prototypes, nullptr).carver.used();
}

void mean_activation_backward(const Problem& problem, const Similarity& similarity, const void* grad,
                              const GradientOutput& output, void* workspace, cudaStream_t stream) {
    const bool features = output.features != nullptr;
    const bool prototypes = output.prototypes != nullptr;
    if (problem.features.dtype == DType::float64)
        MeanBackward<double>(problem, features, prototypes, workspace)
            .run(similarity, static_cast<const double*>(grad), output, stream);
    else
        MeanBackward<float>(problem, features, prototypes, workspace)
            .run(similarity, static_cast<const float*>(grad), output, stream);
}

}  // namespace protokern::cuda
