// The search by plain multiply-adds: float64, and float32 on processors without tf32 matrix units (before sm_80).
#include "search.cuh"
#include "tile.cuh"

namespace protokern::cuda {
namespace {

constexpr int lanes_p = 16;  // threads that share a prototype

template <typename T>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == sizeof(float) ? 2 : 1)
    plain_search_kernel(Search<T> a, int p_tiles) {
    __shared__ TileMemory<T> memory;
    const int64_t first_p = static_cast<int64_t>(blockIdx.x % p_tiles) * tile_side;
    const int64_t item = blockIdx.x / p_tiles;
    const int64_t image = item / a.splits;
    const int64_t split = item % a.splits;
    const int64_t tiles = (a.positions + tile_side - 1) / tile_side;
    const TileRows<T> rows{static_cast<const T*>(a.patches),
                           a.pixels * a.width,
                           a.width,
                           static_cast<const T*>(a.prototypes),
                           static_cast<int64_t>(a.segments) * a.width,
                           nullptr,
                           nullptr,
                           a.count,
                           a.positions,
                           a.columns,
                           a.image_width,
                           a.patch_width,
                           a.segments,
                           a.width};
    Best<T> state[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) state[i] = {infinity<T>(), infinity<T>(), 0};
    for (int64_t t = split * tiles / a.splits; t < (split + 1) * tiles / a.splits; ++t) {
        Tile<T> tile;
        const int first_n = static_cast<int>(t) * tile_side;
        add_tile<Term::product>(rows, image, first_p, first_n, memory, tile);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int n = first_n + static_cast<int>(threadIdx.x) % lanes_p * 4 + j;
            const Rank<T> rank = a.ranks[image * a.padded_positions + n];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const T value = fma(rank.scale, tile.sum[i][j], rank.bias);
                Best<T>& mine = state[i];
                if (value < mine.best) {
                    mine.second = mine.best;
                    mine.best = value;
                    mine.index = n;
                } else if (value < mine.second) {
                    mine.second = value;
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int distance = 1; distance < lanes_p; distance *= 2) {
            const T best = __shfl_xor_sync(all_lanes, state[i].best, distance);
            const T second = __shfl_xor_sync(all_lanes, state[i].second, distance);
            const int index = __shfl_xor_sync(all_lanes, state[i].index, distance);
            state[i].take(best, second, index);
        }
        const int64_t p = first_p + threadIdx.x / lanes_p * 4 + i;
        if (threadIdx.x % lanes_p != 0 || p >= a.count) continue;
        const int64_t to = (split * a.images + image) * a.count + p;
        a.best[to] = state[i].best;
        a.second[to] = state[i].second;
        a.index[to] = state[i].index;
    }
}

}  // namespace

int plain_search_splits(const Shape& shape, const Device& device) {
    const int64_t tiles = divide_up(shape.positions, tile_side);
    const int64_t wanted = divide_up(4 * device.multiprocessors, shape.images * divide_up(shape.prototypes, tile_side));
    return static_cast<int>(wanted < tiles ? wanted : tiles);
}

template <typename T>
void plain_search(const Search<T>& search, cudaStream_t stream) {
    const int64_t p_tiles = divide_up(search.count, tile_side);
    PROTOKERN_LAUNCH("plain_search", (plain_search_kernel<T>), blocks(p_tiles * search.images * search.splits),
                     tile_threads, 0, stream, search, static_cast<int>(p_tiles));
}

template void plain_search(const Search<float>&, cudaStream_t);
template void plain_search(const Search<double>&, cudaStream_t);

}  // namespace protokern::cuda
