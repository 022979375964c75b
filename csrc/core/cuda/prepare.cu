// Reads features and prototypes of any strides once and leaves them in working form.
//
// Letters: B images, D channels, H x W pixels, P prototypes of S = h * w pixels, N positions of a patch.
#include "prepare.cuh"
#include "weight.cuh"

namespace protokern::cuda {
namespace {

constexpr int warps = 8;
constexpr int tile = 32;
constexpr int centre_samples = 256;

template <typename T>
struct Target {
    T* rows;  // (count, pixels, depth)
    void* search;
    SearchForm form;
    int search_width;  // words, or T, per pixel
    const T* centre;
};

template <typename T>
__device__ void store_search(const Target<T>& to, int64_t row, int d, T value) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (to.form == SearchForm::bf16) {
            static_cast<uint16_t*>(to.search)[row * to.search_width * 2 + d] = bfloat16_of(value);
            return;
        }
        if (to.form == SearchForm::tf32) value = float_of_bits(tf32_of(value));
    }
    static_cast<T*>(to.search)[row * to.search_width + d] = value;
}

template <typename T>
__device__ int search_depth(const Target<T>& to) {
    if (to.form == SearchForm::none) return 0;
    return to.form == SearchForm::bf16 ? 2 * to.search_width : to.search_width;
}

// The mean of up to 256 prototypes spread over all of them: any centre leaves the distances as they are, and one near
// the values saves digits. One block per 32 channels.
template <typename Memory, typename T>
__global__ void __launch_bounds__(32 * warps) centre_kernel(Source from, T* centre) {
    __shared__ T sums[warps][32];
    __shared__ int counts[warps][32];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int d = blockIdx.x * 32 + lane;
    const int samples = from.count < centre_samples ? static_cast<int>(from.count) : centre_samples;
    T sum = 0;
    int count = 0;
    if (d < from.depth)
        for (int i = warp; i < samples; i += warps) {
            const Memory* data =
                static_cast<const Memory*>(from.data) + static_cast<int64_t>(i) * from.count / samples * from.stride[0];
            for (int s = 0; s < from.pixels; ++s) {
                const T value = value_at(from, data, s, d);
                if (!finite(value)) continue;
                sum += value;
                ++count;
            }
        }
    sums[warp][lane] = sum;
    counts[warp][lane] = count;
    __syncthreads();
    if (warp != 0 || d >= from.depth) return;
    for (int w = 1; w < warps; ++w) {
        sum += sums[w][lane];
        count += counts[w][lane];
    }
    const T mean = count > 0 ? sum / static_cast<T>(count) : T(0);
    centre[d] = finite(mean) ? mean : T(0);
}

// Features: a block takes 32 pixels of an image, 32 channels at a time, through shared memory, so that it reads along
// whichever of the two lies together in memory and writes along the channels.
template <typename Memory, typename T>
__global__ void __launch_bounds__(32 * warps) pixels_kernel(Source from, Target<T> to, double* norm) {
    __shared__ T values[tile][tile + 1];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const unsigned tiles = (static_cast<unsigned>(from.pixels) + tile - 1) / tile;
    const int64_t image = blockIdx.x / tiles;
    const int first = static_cast<int>(blockIdx.x % tiles) * tile;
    const Memory* data = static_cast<const Memory*>(from.data) + image * from.stride[0];
    const bool along_channels = from.stride[1] == 1;
    const int wanted = search_depth(to);
    const int end = wanted > from.depth ? wanted : from.depth;
    double sum[tile / warps] = {};
    for (int d0 = 0; d0 < end; d0 += tile) {
#pragma unroll
        for (int i = 0; i < tile / warps; ++i) {
            const int other = warp + warps * i;
            const int pixel = first + (along_channels ? other : lane);
            const int channel = along_channels ? lane : other;
            T value = 0;
            if (pixel < from.pixels && d0 + channel < from.depth) value = value_at(from, data, pixel, d0 + channel);
            values[along_channels ? other : lane][channel] = value;
        }
        __syncthreads();
        const int d = d0 + lane;
#pragma unroll
        for (int i = 0; i < tile / warps; ++i) {
            const int pixel = first + warp + warps * i;
            if (pixel >= from.pixels) continue;
            const int64_t row = image * from.pixels + pixel;
            const T value = values[warp + warps * i][lane];
            T centred = 0;
            if (d < from.depth) {
                if (to.rows) to.rows[row * from.depth + d] = value;
                centred = to.centre ? value - to.centre[d] : value;
                const double wide = finite(value) ? static_cast<double>(centred) : not_a_number<double>();
                sum[i] = fma(wide, wide, sum[i]);
            }
            if (d < wanted) store_search(to, row, d, centred);
        }
        __syncthreads();
    }
    if (!norm) return;
#pragma unroll
    for (int i = 0; i < tile / warps; ++i) {
        const int pixel = first + warp + warps * i;
        const double total = warp_sum(sum[i]);
        if (lane == 0 && pixel < from.pixels) norm[image * from.pixels + pixel] = total;
    }
}

// Prototypes: a warp takes one. Its norm is added up in the same order as a patch's, so equal vectors have equal norms.
template <typename Memory, typename T>
__global__ void __launch_bounds__(32 * warps, 4)
    prototypes_kernel(Source from, Target<T> to, bool is_unit, bool unit, T* scale, T* length) {
    const int lane = threadIdx.x % 32;
    const int64_t p = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (p >= from.count) return;
    const Memory* data = static_cast<const Memory*>(from.data) + p * from.stride[0];
    double norm = 0;
    for (int s = 0; s < from.pixels; ++s) {
        double sum = 0;
        for (int d = lane; d < from.depth; d += 32) {
            const T value = value_at(from, data, s, d);
            const T centred = to.centre ? value - to.centre[d] : value;
            const double wide = finite(value) ? static_cast<double>(centred) : not_a_number<double>();
            sum = fma(wide, wide, sum);
        }
        norm += warp_sum(sum);
    }
    const T inverse = inverse_length<T>(norm);
    if (lane == 0 && scale) scale[p] = norm != norm ? not_a_number<T>() : is_unit ? inverse : T(1);
    if (lane == 0 && length) length[p] = unit ? T(1) : sqrt(static_cast<T>(norm));
    const int wanted = search_depth(to);
    const int end = wanted > from.depth ? wanted : from.depth;
    for (int s = 0; s < from.pixels; ++s)
        for (int d = lane; d < end; d += 32) {
            const int64_t row = p * from.pixels + s;
            const T value = d < from.depth ? value_at(from, data, s, d) : T(0);
            if (to.rows && d < from.depth) to.rows[row * from.depth + d] = value;
            if (d >= wanted) continue;
            const T searched = unit ? value * inverse : to.centre && d < from.depth ? value - to.centre[d] : value;
            store_search(to, row, d, searched);
        }
}

template <typename T>
struct Measured {
    const double* pixel_norm;
    int64_t pixels;
    int width, columns, positions, padded_positions, segments, patch_width;
    Metric metric;
    T* patch_scale;
    Rank<T>* ranks;
    T* largest;
    int* first_bad;
    const T* weight;
    int* first_usable;
};

// What the weight of patch n of an image makes of its rank and its part of `largest`; whether the weight is valid.
template <typename T>
__device__ bool weigh_rank(const Measured<T>& a, int64_t image, int n, Rank<T>& rank, double& squared, int& my_usable) {
    const T weight = a.weight[image * a.positions + n];
    if (!is_weight(weight)) return false;
    if (weight == T(0)) {
        rank = {infinity<T>(), T(0)};
        squared = 0;
        return true;
    }
    if (n < my_usable) my_usable = n;
    if (!is_centred(a.metric)) {
        rank.scale *= weight;
    } else {
        squared -= static_cast<double>(log(weight));
        rank.bias = static_cast<T>(squared);
    }
    return true;
}

// The smallest of the numbers (32 * warps) of all threads of a block.
__device__ int block_smallest(int mine, int* all) {
    all[threadIdx.x] = mine;
    __syncthreads();
    for (int step = 16 * warps; step > 0; step /= 2) {
        const int at = static_cast<int>(threadIdx.x);
        if (at < step && all[at + step] < all[at]) all[at] = all[at + step];
        __syncthreads();
    }
    return all[0];
}

// One block per image: norms of patches from those of their pixels.
template <typename T, bool weighted>
__global__ void __launch_bounds__(32 * warps) measure_kernel(Measured<T> a) {
    __shared__ double most[32 * warps];
    __shared__ int first[32 * warps];
    const int64_t image = blockIdx.x;
    double my_most = 0;
    int my_first = a.positions;
    int my_usable = a.positions;
    for (int n = threadIdx.x; n < a.padded_positions; n += 32 * warps) {
        if (n >= a.positions) {
            if (a.ranks) a.ranks[image * a.padded_positions + n] = {infinity<T>(), T(0)};
            continue;
        }
        const double* norm =
            a.pixel_norm + image * a.pixels + static_cast<int64_t>(n / a.columns) * a.width + n % a.columns;
        double sum = 0;
        for (int s = 0; s < a.segments; ++s)
            sum += norm[static_cast<int64_t>(s / a.patch_width) * a.width + s % a.patch_width];
        const bool bad = sum != sum;
        if constexpr (!weighted) {
            if (bad && n < my_first) my_first = n;
            if (sum > my_most) my_most = sum;
        }
        const T inverse = inverse_length<T>(sum);
        if (a.patch_scale)
            a.patch_scale[image * a.positions + n] = bad ? not_a_number<T>() : is_unit(a.metric) ? inverse : T(1);
        if (!a.ranks) continue;
        Rank<T> rank{static_cast<T>(sum), T(-2)};
        if (is_unit(a.metric)) rank = {T(0), -inverse};
        if (is_product(a.metric)) rank = {T(0), T(-1)};
        if constexpr (weighted) {
            const bool valid = weigh_rank(a, image, n, rank, sum, my_usable);
            if ((bad || !valid) && n < my_first) my_first = n;
            if (sum > my_most) my_most = sum;
        }
        a.ranks[image * a.padded_positions + n] = rank;
    }
    most[threadIdx.x] = my_most;
    first[threadIdx.x] = my_first;
    __syncthreads();
    for (int step = 16 * warps; step > 0; step /= 2) {
        if (static_cast<int>(threadIdx.x) < step) {
            most[threadIdx.x] =
                most[threadIdx.x + step] > most[threadIdx.x] ? most[threadIdx.x + step] : most[threadIdx.x];
            first[threadIdx.x] =
                first[threadIdx.x + step] < first[threadIdx.x] ? first[threadIdx.x + step] : first[threadIdx.x];
        }
        __syncthreads();
    }
    if constexpr (weighted) {
        const int first_bad = first[0];
        __syncthreads();
        const int usable = block_smallest(my_usable, first);
        if (threadIdx.x != 0) return;
        a.largest[image] = is_unit(a.metric) ? T(1) : sqrt(static_cast<T>(most[0]));
        a.first_usable[image] = usable;
        a.first_bad[image] = first_bad < a.positions ? first_bad : usable < a.positions ? -1 : 0;
    } else {
        if (threadIdx.x != 0 || !a.largest) return;
        a.largest[image] = is_unit(a.metric) ? T(1) : sqrt(static_cast<T>(most[0]));
        a.first_bad[image] = first[0] < a.positions ? first[0] : -1;
    }
}

// Whether the caller's memory already is rows of T, channels beside each other and pixels evenly spaced.
template <typename T>
bool rows_in_place(const Array4& array) {
    const DType wanted = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    const bool channels = array.stride[1] == 1 || array.size[1] == 1;
    const bool pixels = array.size[2] == 1 || array.size[3] * array.stride[3] == array.stride[2];
    return array.dtype == wanted && channels && pixels;
}

}  // namespace

template <typename T>
Prepared<T>::Prepared(Carver& carver, const Problem& problem, const Shape& shape, const Needs& needs)
    : pairs{},
      own_pixels(nullptr),
      own_prototypes(nullptr),
      pixel_search(nullptr),
      prototype_search(nullptr),
      search_width(0),
      centre(nullptr),
      pixel_norm(nullptr),
      patch_scale(nullptr),
      prototype_scale(nullptr),
      prototype_length(nullptr),
      ranks(nullptr),
      padded_positions(static_cast<int>(round_up(shape.positions, rank_block))),
      largest(nullptr),
      first_bad(nullptr),
      weight(static_cast<const T*>(problem.patch_weight)),
      first_usable(nullptr) {
    const bool scaled = is_unit(problem.metric);
    const Array4& x = problem.features;
    const Array4& p = problem.prototypes;
    pairs.pixels = static_cast<const T*>(x.data);
    pairs.image_stride = x.stride[0];
    pairs.pixel_stride = x.stride[3];
    if (needs.pixels && !rows_in_place<T>(x)) {
        pairs.pixels = own_pixels = carver.take<T>(shape.images * shape.pixels * shape.depth);
        pairs.image_stride = shape.pixels * shape.depth;
        pairs.pixel_stride = shape.depth;
    }
    pairs.prototypes = static_cast<const T*>(p.data);
    pairs.prototype_stride = p.stride[0];
    if (!rows_in_place<T>(p) || (shape.segments > 1 && p.stride[3] != shape.depth)) {
        pairs.prototypes = own_prototypes = carver.take<T>(shape.prototypes * shape.segments * shape.depth);
        pairs.prototype_stride = static_cast<int64_t>(shape.segments) * shape.depth;
    }
    if (needs.search != SearchForm::none) {
        const int width = needs.search == SearchForm::bf16 ? static_cast<int>(divide_up(shape.depth, 2)) : shape.depth;
        search_width = static_cast<int>(round_up(width, 8));
        pixel_search = carver.take<T>(shape.images * shape.pixels * search_width);
        prototype_search = carver.take<T>(shape.prototypes * shape.segments * search_width);
        if (is_centred(problem.metric) && !needs.as_given) centre = carver.take<T>(shape.depth);
        prototype_length = carver.take<T>(shape.prototypes);
        ranks = carver.take<Rank<T>>(shape.images * padded_positions);
        largest = carver.take<T>(shape.images);
        first_bad = carver.take<int>(shape.images);
        if (weight) first_usable = carver.take<int>(shape.images);
    }
    if (needs.search != SearchForm::none || needs.scales) {
        pixel_norm = carver.take<double>(shape.images * shape.pixels);
        patch_scale = carver.take<T>(shape.images * shape.positions);
        prototype_scale = carver.take<T>(shape.prototypes);
    }
    pairs.patch_scale = patch_scale;
    pairs.prototype_scale = prototype_scale;
    pairs.metric = problem.metric;
    pairs.depth = shape.depth;
    pairs.segments = shape.segments;
    pairs.patch_width = shape.patch_width;
    pairs.width = shape.width;
    pairs.columns = shape.columns;
    pairs.positions = shape.positions;
}

template <typename T>
void Prepared<T>::run(const Problem& problem, const Shape& shape, const Needs& needs, cudaStream_t stream) const {
    const bool scaled = is_unit(problem.metric);
    const Source x = source_of(problem.features);
    const Source p = source_of(problem.prototypes);
    const Target<T> pixels{own_pixels, pixel_search, needs.search, search_width, centre};
    const Target<T> rows{own_prototypes, prototype_search, needs.search, search_width, centre};
    with_dtype(problem.features.dtype, [&](auto memory) {
        using Memory = decltype(memory);
        if constexpr ((sizeof(Memory) == sizeof(double)) == (sizeof(T) == sizeof(double))) {
            if (centre && shape.prototypes > 0)
                PROTOKERN_LAUNCH("centre", (centre_kernel<Memory, T>), blocks(divide_up(p.depth, 32)), 32 * warps, 0,
                                 stream, p, centre);
            if ((own_prototypes || pixel_norm) && shape.prototypes > 0)
                PROTOKERN_LAUNCH("prototypes", (prototypes_kernel<Memory, T>), blocks(divide_up(p.count, warps)),
                                 32 * warps, 0, stream, p, rows, scaled, scaled && !needs.as_given, prototype_scale,
                                 prototype_length);
            if ((own_pixels || pixel_norm) && shape.images > 0)
                PROTOKERN_LAUNCH("pixels", (pixels_kernel<Memory, T>), blocks(x.count * divide_up(x.pixels, tile)),
                                 32 * warps, 0, stream, x, pixels, pixel_norm);
        }
    });
    if (!pixel_norm || shape.images == 0) return;
    const Measured<T> measured{pixel_norm,      shape.pixels,     shape.width,    shape.columns,
                               shape.positions, padded_positions, shape.segments, shape.patch_width,
                               problem.metric,  patch_scale,      ranks,          largest,
                               first_bad,       weight,           first_usable};
    if (first_usable)
        PROTOKERN_LAUNCH("measure", (measure_kernel<T, true>), blocks(shape.images), 32 * warps, 0, stream, measured);
    else
        PROTOKERN_LAUNCH("measure", (measure_kernel<T, false>), blocks(shape.images), 32 * warps, 0, stream, measured);
}

template struct Prepared<float>;
template struct Prepared<double>;

}  // namespace protokern::cuda
