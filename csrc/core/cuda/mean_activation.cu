// Mean over the grid of the activation of the distance. Distances are difference forms throughout and never leave the
// registers. The positions of an image are cut into ranges whose sums are added up in their order.
#include "maths.cuh"
#include "prepare.cuh"
#include "tile.cuh"

namespace protokern::cuda {
namespace {

constexpr int range = 512;  // positions
constexpr Needs needs{SearchForm::none, false, true, true};

template <typename T>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == sizeof(float) ? 2 : 1)
    mean_activation_kernel(TileRows<T> rows, bool is_unit, Activation kind, T epsilon, int p_tiles, int ranges,
                           T* sums) {
    __shared__ TileMemory<T> memory;
    const int64_t first_p = static_cast<int64_t>(blockIdx.x % p_tiles) * tile_side;
    const int which = static_cast<int>(blockIdx.x / p_tiles % ranges);
    const int64_t image = blockIdx.x / p_tiles / ranges;
    const int end = which + 1 < ranges ? (which + 1) * range : rows.positions;
    T total[4] = {};
    for (int first_n = which * range; first_n < end; first_n += tile_side) {
        Tile<T> tile;
        add_tile<Term::difference>(rows, image, first_p, first_n, memory, tile);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int64_t p = first_p + threadIdx.x / 16 * 4 + i;
            if (p >= rows.count) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int n = first_n + static_cast<int>(threadIdx.x) % 16 * 4 + j;
                if (n < end)
                    total[i] +=
                        value_of<Maths>(kind, tile_distance(rows, image, p, n, tile.sum[i][j], is_unit), epsilon);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int step = 8; step > 0; step /= 2) total[i] += __shfl_xor_sync(all_lanes, total[i], step);
        const int64_t p = first_p + threadIdx.x / 16 * 4 + i;
        if (threadIdx.x % 16 == 0 && p < rows.count) sums[(image * rows.count + p) * ranges + which] = total[i];
    }
}

template <typename T>
__global__ void __launch_bounds__(256) mean_kernel(const T* sums, int64_t all, int ranges, int positions, T* mean) {
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    if (pair >= all) return;
    T total = 0;
    for (int i = 0; i < ranges; ++i) total += sums[pair * ranges + i];
    mean[pair] = total / static_cast<T>(positions);
}

template <typename T>
struct Mean {
    const Problem& problem;
    const Shape shape;
    Carver carver;
    const Prepared<T> prepared;
    int ranges;
    T* sums;

    Mean(const Problem& problem, void* workspace)
        : problem(problem),
          shape(problem),
          carver(workspace),
          prepared(carver, problem, shape, needs),
          ranges(static_cast<int>(divide_up(shape.positions, range))),
          sums(carver.take<T>(shape.images * shape.prototypes * ranges)) {}

    void run(const Similarity& similarity, T* mean, cudaStream_t stream) const {
        prepared.run(problem, shape, needs, stream);
        const int64_t p_tiles = divide_up(shape.prototypes, tile_side);
        PROTOKERN_LAUNCH("mean_activation", (mean_activation_kernel<T>), blocks(shape.images * p_tiles * ranges),
                         tile_threads, 0, stream, tile_rows(prepared.pairs, shape.prototypes), is_unit(problem.metric),
                         similarity.kind, static_cast<T>(similarity.epsilon), static_cast<int>(p_tiles), ranges, sums);
        const int64_t all = shape.images * shape.prototypes;
        PROTOKERN_LAUNCH("mean", (mean_kernel<T>), blocks(divide_up(all, 256)), 256, 0, stream, sums, all, ranges,
                         shape.positions, mean);
    }
};

bool empty(const Problem& problem) { return problem.features.size[0] == 0 || problem.prototypes.size[0] == 0; }

}  // namespace

int64_t mean_activation_workspace(const Problem& problem) {
    if (empty(problem)) return 0;
    if (problem.features.dtype == DType::float64) return Mean<double>(problem, nullptr).carver.used();
    return Mean<float>(problem, nullptr).carver.used();
}

void mean_activation(const Problem& problem, const Similarity& similarity, void* mean, void* workspace,
                     cudaStream_t stream) {
    if (empty(problem)) return;
    if (problem.features.dtype == DType::float64)
        Mean<double>(problem, workspace).run(similarity, static_cast<double*>(mean), stream);
    else
        Mean<float>(problem, workspace).run(similarity, static_cast<float*>(mean), stream);
}

}  // namespace protokern::cuda
