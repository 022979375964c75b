// Forward. A fast search proposes the nearest patch of every pair (image, prototype); then a warp per pair computes the
// value in difference form at that patch. In the precise searches, where the runner-up is closer than the search's own
// rounding error, the warp decides by the difference form among all patches of the image.
#include <cmath>
#include <limits>

#include "maths.cuh"
#include "search.cuh"
#include "weight.cuh"

namespace protokern::cuda {
namespace {

constexpr int warps = 8;

template <typename T>
struct Finish {
    Pairs<T> pairs;
    const T* best;  // (splits, B, P) each
    const T* second;
    const int* index;
    int splits;
    bool decide;
    T gap;             // largest difference of two scores that rounding can cause, per squared length of the operands
    T vanished;        // and what products too small for a normal number can amount to
    const T* largest;  // (B)
    const T* prototype_length;  // (P)
    const int* first_bad;       // (B)
    const T* weight;            // (B, N), or null
    const int* first_usable;    // (B), or null without weights
    int64_t images, count;
    int64_t images_per_block;
    T* value;
    int64_t* patch;
    T* activation;
    Activation kind;
    T epsilon;
};

// The difference form of a pair, weighed if there are weights.
template <bool weighted, typename T>
__device__ T distance_of(const Finish<T>& a, int64_t image, int n, int64_t p, int lane) {
    const T distance = pair_distance(a.pairs, image, n, p, lane);
    if constexpr (weighted)
        return weigh(a.pairs.metric, a.weight[image * a.pairs.positions + n], distance);
    else
        return distance;
}

// The first of the patches with the smallest difference form.
template <bool weighted, typename T>
__device__ void decide(const Finish<T>& a, int64_t image, int64_t p, int lane, T& value, int& patch) {
    value = infinity<T>();
    patch = 0;
    if constexpr (weighted) patch = a.first_usable[image];
    for (int n = 0; n < a.pairs.positions; ++n) {
        const T distance = distance_of<weighted>(a, image, n, p, lane);
        if (!(distance < value)) continue;
        value = distance;
        patch = n;
    }
}

// A warp takes one prototype and several images, so that the prototype's values stay near.
template <typename T, bool weighted>
__global__ void __launch_bounds__(32 * warps, 2) finish_kernel(Finish<T> a) {
    const int lane = threadIdx.x % 32;
    const int64_t p_blocks = (a.count + warps - 1) / warps;
    const int64_t p = blockIdx.x % p_blocks * warps + threadIdx.x / 32;
    if (p >= a.count) return;
    const int64_t begin = blockIdx.x / p_blocks * a.images_per_block;
    const int64_t end = begin + a.images_per_block < a.images ? begin + a.images_per_block : a.images;
    const T p_scale = a.pairs.prototype_scale[p];
    for (int64_t image = begin; image < end; ++image) {
        T value = not_a_number<T>();
        int patch = 0;
        if (p_scale != p_scale) {
        } else if (a.first_bad[image] >= 0) {
            patch = a.first_bad[image];
        } else {
            Best<T> found{infinity<T>(), infinity<T>(), 0};
            for (int s = 0; s < a.splits; ++s) {
                const int64_t at = (s * a.images + image) * a.count + p;
                const T second = a.second ? a.second[at] : infinity<T>();
                if (s == 0)
                    found = {a.best[at], second, a.index[at]};
                else
                    found.take(a.best[at], second, a.index[at]);
            }
            // Scores of unit vectors are in units of the prototype's length, products in units of both lengths.
            const T reach = a.largest[image] + a.prototype_length[p];
            const T length = a.prototype_length[p];
            const T unit = is_unit(a.pairs.metric)      ? 4 * length
                           : is_product(a.pairs.metric) ? 4 * a.largest[image] * length
                                                        : reach * reach;
            patch = found.index;
            if constexpr (weighted)
                if (!(found.best < infinity<T>())) patch = a.first_usable[image];
            if (a.decide && !(found.second - found.best > a.gap * unit + a.vanished))
                decide<weighted>(a, image, p, lane, value, patch);
            else
                value = distance_of<weighted>(a, image, patch, p, lane);
        }
        if (lane != 0) continue;
        const int64_t to = image * a.count + p;
        a.value[to] = value;
        a.patch[to] = patch;
        if (a.kind != Activation::none) a.activation[to] = value_of<Maths>(a.kind, value, a.epsilon);
    }
}

// float32 runs on matrix units where there are any.
template <typename T>
bool on_matrix_units(const Device& device) {
    return sizeof(T) == sizeof(float) && device.capability >= 80;
}

template <typename T>
SearchForm form_of(Precision precision, const Device& device) {
    if (!on_matrix_units<T>(device) || precision == Precision::fp32) return SearchForm::values;
    return precision == Precision::tf32 ? SearchForm::tf32 : SearchForm::bf16;
}

// Whether the search's form holds every value of the inputs: then the products are exact.
bool holds(DType dtype, Precision precision) {
    if (dtype == DType::bfloat16) return precision != Precision::fp32;
    return dtype == DType::float16 && precision == Precision::tf32;
}

template <typename T>
struct Forward {
    const Problem& problem;
    const Device& device;
    const Precision precision;
    const Shape shape;
    const Needs needs;
    const bool precise;
    const int splits;
    Carver carver;
    const Prepared<T> prepared;
    T* best;
    T* second;
    int* index;

    Forward(const Problem& problem, Precision precision, void* workspace, const Device& device)
        : problem(problem),
          device(device),
          precision(precision),
          shape(problem),
          needs{form_of<T>(precision, device), on_matrix_units<T>(device) && holds(problem.features.dtype, precision),
                true, true},
          precise(needs.search == SearchForm::values || needs.as_given),
          splits(on_matrix_units<T>(device) ? tensor_search_splits(shape, device) : plain_search_splits(shape, device)),
          carver(workspace),
          prepared(carver, problem, shape, needs) {
        const int64_t results = splits * shape.images * shape.prototypes;
        best = carver.take<T>(results);
        second = precise ? carver.take<T>(results) : nullptr;
        index = carver.take<int>(results);
    }

    // The smallest gap between best and runner-up that rounding cannot have caused, per squared length of the operands:
    // that of sums of `length` terms as rounding errors really add up (N. Higham and T. Mary, 2019, with lambda = 2 on
    // both sides), and on matrix units what their sums cut off and what three products of float32 values leave out.
    T gap() const {
        const double rounding = std::numeric_limits<T>::epsilon() / 2;
        const double length = static_cast<double>(shape.segments) * shape.depth;
        // Weights add up to four roundings of numbers no larger than the squared length.
        const double plain = rounding * ((prepared.weight ? 12 : 8) + 2 * std::sqrt(length));
        if (!on_matrix_units<T>(device)) return static_cast<T>(plain);
        if (needs.as_given) return static_cast<T>(plain + length / 8 * 0x1p-24);
        return static_cast<T>(plain + 5 * 0x1p-22 + 3 * length / 8 * 0x1p-24);
    }

    void search(cudaStream_t stream) const {
        const Search<T> task{prepared.pixel_search,
                             prepared.prototype_search,
                             prepared.ranks,
                             best,
                             second,
                             index,
                             shape.images,
                             shape.prototypes,
                             shape.pixels,
                             shape.positions,
                             prepared.padded_positions,
                             shape.columns,
                             shape.width,
                             shape.patch_width,
                             shape.segments,
                             prepared.search_width,
                             splits};
        if constexpr (sizeof(T) == sizeof(float))
            if (on_matrix_units<T>(device)) return tensor_search(task, precision, device, stream);
        plain_search(task, stream);
    }

    void run(const PoolOutput& output, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        search(stream);
        const int64_t p_blocks = divide_up(shape.prototypes, warps);
        // Images that share a block, as long as every multiprocessor has work.
        int64_t images_per_block = shape.images * p_blocks / (16 * static_cast<int64_t>(device.multiprocessors));
        images_per_block = images_per_block < 1 ? 1 : images_per_block > 16 ? 16 : images_per_block;
        const double length = static_cast<double>(shape.segments) * shape.depth;
        const Finish<T> finish{prepared.pairs,
                               best,
                               second,
                               index,
                               splits,
                               precise,
                               gap(),
                               static_cast<T>(12 * length) * std::numeric_limits<T>::min(),
                               prepared.largest,
                               prepared.prototype_length,
                               prepared.first_bad,
                               prepared.weight,
                               prepared.first_usable,
                               shape.images,
                               shape.prototypes,
                               images_per_block,
                               static_cast<T*>(output.value),
                               output.patch,
                               static_cast<T*>(output.activation),
                               output.kind,
                               static_cast<T>(output.epsilon)};
        const dim3 grid = blocks(p_blocks * divide_up(shape.images, images_per_block));
        if (prepared.weight)
            PROTOKERN_LAUNCH("finish", (finish_kernel<T, true>), grid, 32 * warps, 0, stream, finish);
        else
            PROTOKERN_LAUNCH("finish", (finish_kernel<T, false>), grid, 32 * warps, 0, stream, finish);
    }
};

}  // namespace

int64_t min_distance_workspace(const Problem& problem, Precision precision, const Device& device) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return 0;
    if (problem.features.dtype == DType::float64)
        return Forward<double>(problem, precision, nullptr, device).carver.used();
    return Forward<float>(problem, precision, nullptr, device).carver.used();
}

void min_distance(const Problem& problem, Precision precision, const PoolOutput& output, void* workspace,
                  const Device& device, cudaStream_t stream) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    if (problem.features.dtype == DType::float64)
        Forward<double>(problem, precision, workspace, device).run(output, stream);
    else
        Forward<float>(problem, precision, workspace, device).run(output, stream);
}

void use_device(int index) { check(cudaSetDevice(index), "choosing the device"); }

Device current_device() {
    int index = 0;
    Device device{};
    int major = 0;
    int minor = 0;
    check(cudaGetDevice(&index), "the current device");
    check(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index), "multiprocessors");
    check(cudaDeviceGetAttribute(&device.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
          "shared memory");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "compute capability");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "compute capability");
    device.capability = 10 * major + minor;
    return device;
}

}  // namespace protokern::cuda
