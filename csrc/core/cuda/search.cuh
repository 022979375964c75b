// The search proper: the best score, the second best and the position of the best for every pair (image, prototype).
#pragma once

#include "prepare.cuh"

namespace protokern::cuda {

// The positions of an image are cut into `splits` ranges; outputs are (splits, B, P).
template <typename T>
struct Search {
    const void* patches;     // (B, H W, width)
    const void* prototypes;  // (P, S, width)
    const Rank<T>* ranks;    // (B, padded_positions)
    T* best;
    T* second;  // equals `best` on a tie; only written in the precise searches
    int* index;
    int64_t images, count;  // count: prototypes
    int64_t pixels;
    int positions, padded_positions, columns, image_width, patch_width, segments;
    int width;  // words, or T, per pixel
    int splits;
};

// What is left of one range after another: the smaller score, the earlier one on a tie.
template <typename T>
struct Best {
    T best, second;
    int index;

    __device__ void take(T other_best, T other_second, int other_index) {
        const bool other_wins = other_best < best || (other_best == best && other_index < index);
        const T loser = other_wins ? best : other_best;
        T next = other_second < second ? other_second : second;
        second = loser < next ? loser : next;
        best = other_wins ? other_best : best;
        index = other_wins ? other_index : index;
    }
};

int tensor_search_splits(const Shape& shape, const Device& device);
void tensor_search(const Search<float>& search, Precision precision, const Device& device, cudaStream_t stream);

int plain_search_splits(const Shape& shape, const Device& device);
template <typename T>
void plain_search(const Search<T>& search, cudaStream_t stream);

}  // namespace protokern::cuda
