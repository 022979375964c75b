// Distances at all positions, or at given ones, in difference form throughout; under dot, products.
#include "prepare.cuh"
#include "tile.cuh"

namespace protokern::cuda {
namespace {

constexpr int warps = 8;
constexpr Needs needs{SearchForm::none, false, true, true};

// A warp takes one pair.
template <typename T>
__global__ void __launch_bounds__(32 * warps) pair_distances_kernel(Pairs<T> pairs, int64_t count, int64_t per_pair,
                                                                    int64_t all, const int64_t* patch, T* distance) {
    const int lane = threadIdx.x % 32;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (at >= all) return;
    const int64_t n = patch[at];
    const int64_t pair = at / per_pair;
    T result = not_a_number<T>();
    if (n >= 0 && n < pairs.positions)
        result = pair_distance(pairs, pair / count, static_cast<int>(n), pair % count, lane);
    if (lane == 0) distance[at] = result;
}

// A warp takes 32 positions, one after the other, of one pair of an image and a prototype.
template <typename T>
__global__ void __launch_bounds__(32 * warps)
    all_distances_kernel(Pairs<T> pairs, int64_t first, int64_t count, int64_t all, T* distance) {
    const int lane = threadIdx.x % 32;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (at >= all) return;
    const int64_t ranges = (pairs.positions + 31) / 32;
    const int64_t pair = at / ranges;
    const int begin = static_cast<int>(at % ranges) * 32;
    const int end = begin + 32 < pairs.positions ? begin + 32 : pairs.positions;
    T mine = 0;
    for (int n = begin; n < end; ++n) {
        const T found = pair_distance(pairs, first + pair / count, n, pair % count, lane);
        if (n - begin == lane) mine = found;
    }
    if (begin + lane < end) distance[pair * pairs.positions + begin + lane] = mine;
}

// A block takes 64 prototypes and 64 positions of an image.
template <typename T>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == sizeof(float) ? 2 : 1)
    distance_tiles_kernel(TileRows<T> rows, bool is_unit, int p_tiles, int n_tiles, T* distance) {
    __shared__ TileMemory<T> memory;
    const int64_t first_p = static_cast<int64_t>(blockIdx.x % p_tiles) * tile_side;
    const int first_n = static_cast<int>(blockIdx.x / p_tiles % n_tiles) * tile_side;
    const int64_t image = blockIdx.x / p_tiles / n_tiles;
    Tile<T> tile;
    add_tile<Term::difference>(rows, image, first_p, first_n, memory, tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int64_t p = first_p + threadIdx.x / 16 * 4 + i;
        if (p >= rows.count) continue;
        T* to = distance + (image * rows.count + p) * rows.positions;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int n = first_n + static_cast<int>(threadIdx.x) % 16 * 4 + j;
            if (n < rows.positions) to[n] = tile_distance(rows, image, p, n, tile.sum[i][j], is_unit);
        }
    }
}

template <typename T>
struct Exact {
    const Problem& problem;
    const Shape shape;
    Carver carver;
    const Prepared<T> prepared;

    Exact(const Problem& problem, void* workspace)
        : problem(problem), shape(problem), carver(workspace), prepared(carver, problem, shape, needs) {}

    void at(const int64_t* patch, int64_t per_pair, T* distance, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        pair_distances(prepared.pairs, shape.images, shape.prototypes, per_pair, patch, distance, stream);
    }

    void map(T* distance, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        all_distances(prepared.pairs, 0, shape.images, shape.prototypes, distance, stream);
    }
};

bool empty(const Problem& problem) { return problem.features.size[0] == 0 || problem.prototypes.size[0] == 0; }

int64_t workspace_of(const Problem& problem) {
    if (empty(problem)) return 0;
    if (problem.features.dtype == DType::float64) return Exact<double>(problem, nullptr).carver.used();
    return Exact<float>(problem, nullptr).carver.used();
}

}  // namespace

template <typename T>
void pair_distances(const Pairs<T>& pairs, int64_t images, int64_t count, int64_t per_pair, const int64_t* patch,
                    T* distance, cudaStream_t stream) {
    const int64_t all = images * count * per_pair;
    if (all == 0) return;
    PROTOKERN_LAUNCH("pair_distances", (pair_distances_kernel<T>), blocks(divide_up(all, warps)), 32 * warps, 0, stream,
                     pairs, count, per_pair, all, patch, distance);
}

template void pair_distances(const Pairs<float>&, int64_t, int64_t, int64_t, const int64_t*, float*, cudaStream_t);
template void pair_distances(const Pairs<double>&, int64_t, int64_t, int64_t, const int64_t*, double*, cudaStream_t);

template <typename T>
void all_distances(const Pairs<T>& pairs, int64_t first, int64_t images, int64_t count, T* distance,
                   cudaStream_t stream) {
    if (!is_product(pairs.metric))
        return distance_tiles(tile_rows(pairs, count, first), images, is_unit(pairs.metric), distance, stream);
    const int64_t all = images * count * divide_up(pairs.positions, 32);
    PROTOKERN_LAUNCH("all_distances", (all_distances_kernel<T>), blocks(divide_up(all, warps)), 32 * warps, 0, stream,
                     pairs, first, count, all, distance);
}

template void all_distances(const Pairs<float>&, int64_t, int64_t, int64_t, float*, cudaStream_t);
template void all_distances(const Pairs<double>&, int64_t, int64_t, int64_t, double*, cudaStream_t);

template <typename T>
void distance_tiles(const TileRows<T>& rows, int64_t images, bool is_unit, T* distance, cudaStream_t stream) {
    const int64_t p_tiles = divide_up(rows.count, tile_side);
    const int64_t n_tiles = divide_up(rows.positions, tile_side);
    PROTOKERN_LAUNCH("distance_tiles", (distance_tiles_kernel<T>), blocks(images * p_tiles * n_tiles), tile_threads, 0,
                     stream, rows, is_unit, static_cast<int>(p_tiles), static_cast<int>(n_tiles), distance);
}

template void distance_tiles(const TileRows<float>&, int64_t, bool, float*, cudaStream_t);
template void distance_tiles(const TileRows<double>&, int64_t, bool, double*, cudaStream_t);

int64_t distance_at_workspace(const Problem& problem) { return workspace_of(problem); }
int64_t distance_map_workspace(const Problem& problem) { return workspace_of(problem); }

void distance_at(const Problem& problem, const int64_t* patch, int64_t per_pair, void* distance, void* workspace,
                 cudaStream_t stream) {
    if (empty(problem)) return;
    if (problem.features.dtype == DType::float64)
        Exact<double>(problem, workspace).at(patch, per_pair, static_cast<double*>(distance), stream);
    else
        Exact<float>(problem, workspace).at(patch, per_pair, static_cast<float*>(distance), stream);
}

void distance_map(const Problem& problem, void* distance, void* workspace, cudaStream_t stream) {
    if (empty(problem)) return;
    if (problem.features.dtype == DType::float64)
        Exact<double>(problem, workspace).map(static_cast<double*>(distance), stream);
    else
        Exact<float>(problem, workspace).map(static_cast<float*>(distance), stream);
}

}  // namespace protokern::cuda
