// The search on matrix units (sm_80 and newer): products of 128 prototypes with 64 or 128 patches at a time.
//
// A block keeps its prototypes in shared memory where they fit and lets the patches of its images stream past, in
// chunks of 32 words (32 tf32 or 64 bfloat16 channels) that are copied in the background three deep. Where they do not
// fit, their chunks stream beside the patches'. A warp multiplies 64 prototypes with 32 patches; the scores never leave
// its registers: each lane keeps the best and second best of its 8 prototypes. Rows in shared memory are 4 words longer
// than a multiple of 32, so that the 8 rows x 4 words that a warp reads at a time lie in different banks.
//
// `fp32` cuts every value in two tf32 numbers and adds high x high, high x low and low x high: what is missing is
// 5 * 2^-22 of a product. `track` keeps the second best too, for the searches whose patch is decided exactly.
#include "search.cuh"

namespace protokern::cuda {
namespace {

constexpr int tile_p = 128;
constexpr int chunk = 32;       // words
constexpr int row = chunk + 4;  // words of a row of a stage
constexpr int stages = 3;
constexpr int step = 8;  // words of one matrix product

// Shared memory of a block. Ranks of a tile lie beside its patches; `merged` is where the warps of a block compare.
template <int warps_n>
struct Layout {
    static constexpr int tile_n = 32 * warps_n;
    static constexpr int threads = 64 * warps_n;
    static constexpr int stage_words = tile_n * row;
    static constexpr int ranks = 3 * warps_n * tile_p;  // word offsets: after `merged`
    static constexpr int patches = ranks + stages * 2 * tile_n;
    static constexpr int prototypes = patches + stages * stage_words;

    static int bytes(int prototype_words) { return 4 * (prototypes + prototype_words); }
};

// Walks over the chunks of all tiles of all items of a block; an item is a range of positions of one image.
struct Walk {
    int64_t item, end;
    int tile, tile_end, at;  // at: first word of the chunk

    __device__ void range(int splits, int tiles) {
        const int split = static_cast<int>(item % splits);
        tile = static_cast<int>(static_cast<int64_t>(split) * tiles / splits);
        tile_end = static_cast<int>(static_cast<int64_t>(split + 1) * tiles / splits);
    }
    __device__ void start(int64_t first, int64_t last, int splits, int tiles) {
        item = first, end = last, at = 0;
        if (item < end) range(splits, tiles);
    }
    __device__ bool done() const { return item >= end; }
    __device__ void next(int length, int splits, int tiles) {
        at += chunk;
        if (at < length) return;
        at = 0;
        if (++tile < tile_end) return;
        if (++item < end) range(splits, tiles);
    }
};

template <int warps_n>
struct Loader {
    static constexpr int threads = Layout<warps_n>::threads;
    static constexpr int tile_n = Layout<warps_n>::tile_n;
    const Search<float>& a;
    uint32_t* shared;
    int64_t first_p;
    int length;
    bool resident;

    __device__ void prototypes(uint32_t* to, int ld, int from, int words) const {
        const uint32_t* source = static_cast<const uint32_t*>(a.prototypes);
        const int pieces = words / 4;
        for (int i = threadIdx.x; i < tile_p * pieces; i += threads) {
            const int r = i / pieces;
            const int k = i % pieces * 4;
            if (from + k >= length) continue;
            const int64_t p = first_p + r < a.count ? first_p + r : a.count - 1;
            copy_in_background<16>(to + r * ld + k, source + p * length + from + k, 16);
        }
    }

    __device__ void patches(uint32_t* to, const Walk& walk) const {
        const int64_t image = walk.item / a.splits;
        const uint32_t* source = static_cast<const uint32_t*>(a.patches) + image * a.pixels * a.width;
        const int q = threadIdx.x % 8 * 4;
        const int k = walk.at + q;
        if (k >= length) return;
        const int s = a.segments == 1 ? 0 : k / a.width;
        const int64_t within = static_cast<int64_t>(s / a.patch_width) * a.image_width +
                               s % a.patch_width;  // pixels from the patch's first
        const int offset = k - s * a.width;
#pragma unroll
        for (int i = 0; i < tile_n * 8 / threads; ++i) {
            const int r = threadIdx.x / 8 + i * (threads / 8);
            const int n = walk.tile * tile_n + r;
            const bool inside = n < a.positions;
            int64_t pixel = 0;
            if (inside)
                pixel =
                    a.segments == 1 ? n : within + static_cast<int64_t>(n / a.columns) * a.image_width + n % a.columns;
            copy_in_background<16>(to + r * row + q, source + pixel * a.width + offset, inside ? 16 : 0);
        }
    }

    __device__ void stage(int number, const Walk& walk) const {
        using L = Layout<warps_n>;
        patches(shared + L::patches + number * L::stage_words, walk);
        if (!resident) prototypes(shared + L::prototypes + number * tile_p * row, row, walk.at, chunk);
        if (static_cast<int>(threadIdx.x) < tile_n)
            copy_in_background<8>(
                shared + L::ranks + (number * tile_n + threadIdx.x) * 2,
                a.ranks + walk.item / a.splits * a.padded_positions + walk.tile * tile_n + threadIdx.x, 8);
    }
};

__device__ inline void split(uint32_t value, uint32_t& high, uint32_t& low) {
    high = tf32_of(float_of_bits(value));
    low = bits_of_float(float_of_bits(value) - float_of_bits(high));
}

// sum += products of one step; `p` and `x` point to this lane's first word in the rows of its warp.
template <Precision precision>
__device__ void multiply_step(float (&sum)[4][4][4], const uint32_t* p, int p_row, const uint32_t* x) {
    constexpr bool half = precision == Precision::bf16;
    uint32_t b[4][2];
    uint32_t b_low[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            b[j][i] = x[j * 8 * row + 4 * i];
            if constexpr (precision == Precision::fp32) split(b[j][i], b[j][i], b_low[j][i]);
        }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
        uint32_t a_low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            a[i] = p[(m * 16 + i % 2 * 8) * p_row + i / 2 * 4];
            if constexpr (precision == Precision::fp32) split(a[i], a[i], a_low[i]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (precision == Precision::fp32) {
                multiply<half>(sum[m][j], a_low, b[j][0], b[j][1]);
                multiply<half>(sum[m][j], a, b_low[j][0], b_low[j][1]);
            }
            multiply<half>(sum[m][j], a, b[j][0], b[j][1]);
        }
    }
}

// Scores of a warp's 64 prototypes x 32 patches; a lane's positions come in ascending order, so `<` keeps the first.
template <bool track>
__device__ void score(const float (&sum)[4][4][4], const uint32_t* ranks, int first_n, Best<float> (&state)[8]) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float bias = float_of_bits(ranks[(j * 8 + i) * 2]);
            const float scale = float_of_bits(ranks[(j * 8 + i) * 2 + 1]);
#pragma unroll
            for (int r = 0; r < 8; ++r) {
                const float value = fmaf(scale, sum[r / 2][j][r % 2 * 2 + i], bias);
                Best<float>& mine = state[r];
                const bool better = value < mine.best;
                if constexpr (track) mine.second = better ? mine.best : fminf(mine.second, value);
                mine.best = better ? value : mine.best;
                mine.index = better ? first_n + j * 8 + i : mine.index;
            }
        }
}

// Compares what the lanes and the warps of a block have found for each prototype, and writes it.
template <int warps_n>
__device__ void finish_item(Best<float> (&state)[8], const Search<float>& a, int64_t item, int64_t first_p,
                            uint32_t* merged) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    float* best = reinterpret_cast<float*>(merged);
    float* second = best + warps_n * tile_p;
    int* index = reinterpret_cast<int*>(second + warps_n * tile_p);
#pragma unroll
    for (int r = 0; r < 8; ++r) {
        Best<float> mine = state[r];
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2) {
            const float other_best = __shfl_xor_sync(all_lanes, mine.best, distance);
            const float other_second = __shfl_xor_sync(all_lanes, mine.second, distance);
            const int other_index = __shfl_xor_sync(all_lanes, mine.index, distance);
            mine.take(other_best, other_second, other_index);
        }
        if (lane % 4 != 0) continue;
        const int at = warp / 2 * tile_p + warp % 2 * 64 + r / 2 * 16 + r % 2 * 8 + lane / 4;
        best[at] = mine.best;
        second[at] = mine.second;
        index[at] = mine.index;
    }
    __syncthreads();
    for (int p = threadIdx.x; p < tile_p && first_p + p < a.count; p += Layout<warps_n>::threads) {
        Best<float> all{best[p], second[p], index[p]};
        for (int w = 1; w < warps_n; ++w) all.take(best[w * tile_p + p], second[w * tile_p + p], index[w * tile_p + p]);
        const int64_t image = item / a.splits;
        const int64_t to = (item % a.splits * a.images + image) * a.count + first_p + p;
        a.best[to] = all.best;
        a.index[to] = all.index;
        if (a.second) a.second[to] = all.second;
    }
}

template <Precision precision, bool track, int warps_n>
__global__ void __launch_bounds__(64 * warps_n, 4 / warps_n)
    tensor_search_kernel(const Search<float> a, int p_tiles, int64_t items_per_block, int resident_row) {
#if defined(PROTOKERN_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
    using L = Layout<warps_n>;
    PROTOKERN_SHARED(memory);
    uint32_t* shared = reinterpret_cast<uint32_t*>(memory);
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int length = a.segments * a.width;
    const int tiles = (a.positions + L::tile_n - 1) / L::tile_n;
    const int64_t first_p = static_cast<int64_t>(blockIdx.x % p_tiles) * tile_p;
    const int64_t first_item = blockIdx.x / p_tiles * items_per_block;
    const int64_t items = a.images * a.splits;
    const int64_t end_item = first_item + items_per_block < items ? first_item + items_per_block : items;
    const bool resident = resident_row > 0;
    const Loader<warps_n> loader{a, shared, first_p, length, resident};

    if (resident) loader.prototypes(shared + L::prototypes, resident_row, 0, length);
    Walk ahead{};
    ahead.start(first_item, end_item, a.splits, tiles);
    for (int s = 0; s < stages - 1; ++s) {
        if (!ahead.done()) {
            loader.stage(s, ahead);
            ahead.next(length, a.splits, tiles);
        }
        end_copy_group();
    }

    const int p_row = resident ? resident_row : row;
    const int p_offset = L::prototypes + (warp % 2 * 64 + lane / 4) * p_row + lane % 4;
    const int x_offset = L::patches + (warp / 2 * 32 + lane / 4) * row + lane % 4;
    const int rank_offset = L::ranks + (warp / 2 * 32 + lane % 4 * 2) * 2;
    int stage = 0;
    Walk now{};
    now.start(first_item, end_item, a.splits, tiles);
    while (!now.done()) {
        const int64_t item = now.item;
        Best<float> state[8];
#pragma unroll
        for (int r = 0; r < 8; ++r) state[r] = {infinity<float>(), infinity<float>(), 0};
        while (!now.done() && now.item == item) {
            const int tile = now.tile;
            float sum[4][4][4] = {};
            int last = 0;
            for (bool more = true; more;) {
                wait_for_copies<stages - 2>();
                __syncthreads();
                if (!ahead.done()) {
                    loader.stage(stage == 0 ? stages - 1 : stage - 1, ahead);
                    ahead.next(length, a.splits, tiles);
                }
                end_copy_group();
                const uint32_t* x = shared + x_offset + stage * L::stage_words;
                const uint32_t* p = shared + p_offset + (resident ? now.at : stage * tile_p * row);
                const int words = length - now.at < chunk ? length - now.at : chunk;
                if (words == chunk)
#pragma unroll
                    for (int k = 0; k < chunk; k += step) multiply_step<precision>(sum, p + k, p_row, x + k);
                else
                    for (int k = 0; k < words; k += step) multiply_step<precision>(sum, p + k, p_row, x + k);
                last = stage;
                stage = stage + 1 == stages ? 0 : stage + 1;
                more = now.at + chunk < length;
                now.next(length, a.splits, tiles);
            }
            score<track>(sum, shared + rank_offset + last * 2 * L::tile_n,
                         tile * L::tile_n + warp / 2 * 32 + lane % 4 * 2, state);
        }
        finish_item<warps_n>(state, a, item, first_p, shared);
    }
    wait_for_copies<0>();
#endif
}

constexpr int blocks_per_multiprocessor = 8;  // how finely the work is dealt out

// Wider tiles where they waste no more positions than narrow ones.
int tile_width(int positions) { return positions > 64 && round_up(positions, 128) == round_up(positions, 64) ? 4 : 2; }

template <Precision precision, bool track, int warps_n>
void launch(const Search<float>& search, const Device& device, cudaStream_t stream) {
    using L = Layout<warps_n>;
    const int64_t length = static_cast<int64_t>(search.segments) * search.width;
    const int64_t resident_row = round_up(length, chunk) + 4;
    const int64_t needed = L::bytes(0) + 4 * tile_p * resident_row;
    const bool resident = needed <= device.shared_memory;
    const int bytes = resident ? static_cast<int>(needed) : L::bytes(stages * tile_p * row);
    const int64_t p_tiles = divide_up(search.count, tile_p);
    const int64_t items = search.images * search.splits;
    const int64_t groups = divide_up(static_cast<int64_t>(blocks_per_multiprocessor) * device.multiprocessors, p_tiles);
    const int64_t items_per_block = divide_up(items, groups < items ? groups : items);
    const auto kernel = tensor_search_kernel<precision, track, warps_n>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "shared memory for kernel tensor_search");
    PROTOKERN_LAUNCH("tensor_search", (kernel), blocks(p_tiles * divide_up(items, items_per_block)), L::threads, bytes,
                     stream, search, static_cast<int>(p_tiles), items_per_block,
                     resident ? static_cast<int>(resident_row) : 0);
}

template <Precision precision, bool track>
void launch(const Search<float>& search, const Device& device, cudaStream_t stream) {
    if (tile_width(search.positions) == 4)
        launch<precision, track, 4>(search, device, stream);
    else
        launch<precision, track, 2>(search, device, stream);
}

}  // namespace

// As many ranges as give every multiprocessor two blocks, each of at least two tiles.
int tensor_search_splits(const Shape& shape, const Device& device) {
    const int64_t tiles = divide_up(shape.positions, 32 * tile_width(shape.positions));
    const int64_t wanted = divide_up(2 * device.multiprocessors, shape.images * divide_up(shape.prototypes, tile_p));
    const int64_t most = tiles < 4 ? 1 : tiles / 2;
    return static_cast<int>(wanted < most ? wanted : most);
}

void tensor_search(const Search<float>& search, Precision precision, const Device& device, cudaStream_t stream) {
    const bool track = search.second != nullptr;
    if (precision == Precision::fp32) return launch<Precision::fp32, true>(search, device, stream);
    if (precision == Precision::tf32)
        return track ? launch<Precision::tf32, true>(search, device, stream)
                     : launch<Precision::tf32, false>(search, device, stream);
    return track ? launch<Precision::bf16, true>(search, device, stream)
                 : launch<Precision::bf16, false>(search, device, stream);
}

}  // namespace protokern::cuda
