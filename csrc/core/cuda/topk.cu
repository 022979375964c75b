// The k nearest patches. The distances of some images at a time go to a piece of memory of fixed size; a warp per pair
// picks the k smallest of a row and computes them once more as min_distance does, so that both give the same numbers.
#include "prepare.cuh"
#include "tile.cuh"
#include "weight.cuh"

namespace protokern::cuda {
namespace {

constexpr int warps = 8;
constexpr int64_t map_bytes = 16 << 20;
constexpr Needs needs{SearchForm::none, false, true, true};

template <typename T>
__device__ bool before(T a, int at_a, T b, int at_b) {
    return a < b || (a == b && at_a < at_b);
}

// The smallest of all lanes' entries, in all lanes.
template <typename T>
__device__ void warp_first(T& value, int& at) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(all_lanes, value, step);
        const int other_at = __shfl_xor_sync(all_lanes, at, step);
        if (!before(other, other_at, value, at)) continue;
        value = other;
        at = other_at;
    }
}

// A sum of products of finite vectors may overflow on both sides: as far away as can be, and nothing bad.
template <typename T>
__device__ T nan_last(const Pairs<T>& pairs, int64_t image, int n, int64_t p, T distance) {
    if (distance == distance || !is_product(pairs.metric)) return distance;
    const T scales = pairs.patch_scale[image * pairs.positions + n] + pairs.prototype_scale[p];
    return scales == scales ? infinity<T>() : distance;
}

constexpr int nowhere = 0x7fffffff;
constexpr int missing = nowhere - most_neighbours;  // from here on: the i-th of those that stand for no patch

template <typename T, bool weighted>
__global__ void __launch_bounds__(32 * warps, 2)
    topk_kernel(Pairs<T> pairs, const T* weight, const T* map, int64_t first_image, int64_t all, int64_t count, int k,
                T* value, int64_t* patch) {
    const int lane = threadIdx.x % 32;
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (pair >= all) return;
    const int64_t image = first_image + pair / count;
    const int64_t p = pair % count;
    const T* row = map + pair * pairs.positions;
    if constexpr (weighted) weight += image * pairs.positions;
    T* values = value + (image * count + p) * k;
    int64_t* patches = patch + (image * count + p) * k;

    // Every lane keeps the first few of its own positions, in order.
    T mine[most_neighbours];
    int at[most_neighbours];
#pragma unroll
    for (int i = 0; i < most_neighbours; ++i) mine[i] = infinity<T>(), at[i] = nowhere;
    int bad = nowhere;
    for (int n = lane; n < pairs.positions; n += 32) {
        T distance = nan_last(pairs, image, n, p, row[n]);
        int here = n;
        if constexpr (weighted)
            if (distance == distance) {
                if (weight[n] == T(0)) continue;
                distance = weigh(pairs.metric, weight[n], distance);
            }
        if (distance != distance && n < bad) bad = n;
#pragma unroll
        for (int i = 0; i < most_neighbours; ++i) {
            const bool earlier = before(distance, here, mine[i], at[i]);
            const T out = earlier ? mine[i] : distance;
            const int out_at = earlier ? at[i] : here;
            mine[i] = earlier ? distance : mine[i];
            at[i] = earlier ? here : at[i];
            distance = out;
            here = out_at;
        }
    }
    T none = 0;
    warp_first(none, bad);
    if (bad != nowhere) {
        const T p_scale = pairs.prototype_scale[p];
        if (lane < k) {
            values[lane] = not_a_number<T>();
            patches[lane] = p_scale != p_scale ? 0 : bad;
        }
        return;
    }
    T chosen = infinity<T>();
    int chosen_at = nowhere;
    for (int i = 0; i < k; ++i) {
        T head = mine[0];
        int head_at = at[0];
        warp_first(head, head_at);
        if (head_at == at[0]) {
#pragma unroll
            for (int j = 0; j + 1 < most_neighbours; ++j) mine[j] = mine[j + 1], at[j] = at[j + 1];
            mine[most_neighbours - 1] = infinity<T>();
            at[most_neighbours - 1] = nowhere;
        }
        if constexpr (weighted) {
            if (head_at == nowhere) {
                if (lane == i) chosen_at = missing + i;
                continue;
            }
        }
        T distance = nan_last(pairs, image, head_at, p, pair_distance(pairs, image, head_at, p, lane));
        if constexpr (weighted) distance = weigh(pairs.metric, weight[head_at], distance);
        if (lane == i) chosen = distance, chosen_at = head_at;
    }
    // The order by the distances of the second computation.
    int rank = 0;
    int nearest_at = nowhere;
    T nearest = infinity<T>();
    for (int i = 0; i < k; ++i) {
        const T other = __shfl_sync(all_lanes, chosen, i);
        const int other_at = __shfl_sync(all_lanes, chosen_at, i);
        if (before(other, other_at, chosen, chosen_at)) ++rank;
        if constexpr (weighted)
            if (before(other, other_at, nearest, nearest_at)) nearest = other, nearest_at = other_at;
    }
    if (lane >= k) return;
    if constexpr (weighted) {
        if (nearest_at >= missing) chosen = not_a_number<T>(), nearest_at = 0;  // no patch has a weight
        if (chosen_at >= missing) chosen_at = nearest_at;
    }
    values[rank] = chosen;
    patches[rank] = chosen_at;
}

template <typename T>
struct TopK {
    const Problem& problem;
    const Shape shape;
    Carver carver;
    const Prepared<T> prepared;
    int64_t images_at_a_time;
    T* map;

    TopK(const Problem& problem, void* workspace)
        : problem(problem), shape(problem), carver(workspace), prepared(carver, problem, shape, needs) {
        const int64_t row = shape.prototypes * shape.positions;
        const int64_t fitting = map_bytes / (row * static_cast<int64_t>(sizeof(T)));
        images_at_a_time = fitting < 1 ? 1 : fitting < shape.images ? fitting : shape.images;
        map = carver.take<T>(images_at_a_time * row);
    }

    void run(int64_t k, T* value, int64_t* patch, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        for (int64_t image = 0; image < shape.images; image += images_at_a_time) {
            const int64_t images = shape.images - image < images_at_a_time ? shape.images - image : images_at_a_time;
            all_distances(prepared.pairs, image, images, shape.prototypes, map, stream);
            const int64_t all = images * shape.prototypes;
            const dim3 grid = blocks(divide_up(all, warps));
            if (prepared.weight)
                PROTOKERN_LAUNCH("topk", (topk_kernel<T, true>), grid, 32 * warps, 0, stream, prepared.pairs,
                                 prepared.weight, map, image, all, shape.prototypes, static_cast<int>(k), value, patch);
            else
                PROTOKERN_LAUNCH("topk", (topk_kernel<T, false>), grid, 32 * warps, 0, stream, prepared.pairs,
                                 prepared.weight, map, image, all, shape.prototypes, static_cast<int>(k), value, patch);
        }
    }
};

bool empty(const Problem& problem) { return problem.features.size[0] == 0 || problem.prototypes.size[0] == 0; }

}  // namespace

int64_t topk_distance_workspace(const Problem& problem) {
    if (empty(problem)) return 0;
    if (problem.features.dtype == DType::float64) return TopK<double>(problem, nullptr).carver.used();
    return TopK<float>(problem, nullptr).carver.used();
}

void topk_distance(const Problem& problem, int64_t k, void* value, int64_t* patch, void* workspace,
                   cudaStream_t stream) {
    if (empty(problem)) return;
    if (problem.features.dtype == DType::float64)
        TopK<double>(problem, workspace).run(k, static_cast<double*>(value), patch, stream);
    else
        TopK<float>(problem, workspace).run(k, static_cast<float*>(value), patch, stream);
}

}  // namespace protokern::cuda
