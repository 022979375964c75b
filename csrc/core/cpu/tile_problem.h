// What the drivers of tiles share: biases of rows and lanes, and the distances of close pairs.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core.h"
#include "patches.h"
#include "prototypes.h"
#include "tile_types.h"
#include "work.h"

namespace protokern::cpu {

// A pair is close where its distance is below this share of its bias, |x|^2 + |p|^2 (unit vectors: 1). Elsewhere the
// expanded form loses three bits at most; close pairs get the difference form.
constexpr double closeness = 0.125;

template <typename T>
const TileKernels<T>& tiles_of(const InstructionSet& instructions) {
    if constexpr (sizeof(T) == 8)
        return instructions.tiles->float64;
    else
        return instructions.tiles->float32;
}

constexpr int64_t tiles_in(int64_t positions) { return (positions + tile_rows - 1) / tile_rows; }

// Of tiles of nearly equal size, the first position of one.
constexpr int64_t tile_begin(int64_t tile, int64_t positions) { return tile * positions / tiles_in(positions); }

// lane_bias of every panel, and the largest of each. Lanes without a prototype get 1: far from everything.
template <typename T>
class LaneBias {
  public:
    LaneBias(const PreparedPrototypes<T>& prototypes, const Shape& shape, int64_t lanes, Metric metric)
        : lanes_(lanes),
          memory_(prototypes.panels() * (lanes + 1) * static_cast<int64_t>(sizeof(T))),
          bias_(reinterpret_cast<T*>(memory_.data())),
          largest_(bias_ + prototypes.panels() * lanes) {
        for (int64_t panel = 0; panel < prototypes.panels(); ++panel) {
            T& most = largest_[panel] = 0;
            for (int64_t lane = 0; lane < lanes; ++lane) {
                const int64_t p = panel * lanes + lane;
                T& bias = bias_[p] = T(1);
                if (p >= shape.prototypes) continue;
                const double norm = prototypes.norm(p);
                bias = with_metric_of_mean(metric, [norm](auto row) { return row.template lane_bias<T>(norm); });
                if (bias > most) most = bias;
            }
        }
    }
    const T* of(int64_t panel) const { return bias_ + panel * lanes_; }
    T largest(int64_t panel) const { return largest_[panel]; }

  private:
    int64_t lanes_;
    Scratch memory_;
    T* bias_;
    T* largest_;
};

// How many distances up to `most` may share one logarithm before products of (d + 1) or (d + epsilon) leave the range.
template <typename T>
int64_t logarithm_group(double most, double epsilon) {
    const double range = std::numeric_limits<T>::max_exponent10 - 1;
    for (int64_t group = 8; group > 1; group /= 2) {
        const double digits = static_cast<double>(group) * std::max(std::log10(most + 1), -std::log10(epsilon));
        if (epsilon <= 1 && digits <= range) return group;
    }
    return 1;
}

// Pairs of a patch and a prototype, collected until there are enough for one call of the distance kernel.
template <typename T>
struct PairBatch {
    static constexpr int64_t size = 64;
    const T* patch[size];
    const T* prototype[size];
    T patch_scale[size];
    T prototype_scale[size];
    T distance[size];
    int64_t count = 0;

    bool full() const { return count == size; }
    void add(const T* x, T x_scale, const T* p, T p_scale) {
        patch[count] = x;
        patch_scale[count] = x_scale;
        prototype[count] = p;
        prototype_scale[count++] = p_scale;
    }
    void compute(const Kernels<T>& kernels, Metric metric, const int64_t* segment, const Shape& shape) {
        kernels.pair_distance({metric, patch, prototype, patch_scale, prototype_scale, count, segment, shape.segments,
                               shape.padded_depth, distance});
    }
};

// Replaces the distances of `mask` in one row of a tile, that of a finite patch, by difference forms. `first` is the
// panel's first prototype. Leaves those of non-finite prototypes; returns the others.
template <typename T>
uint64_t measure_close(const PatchGroup<T>& group, int64_t image, int64_t position,
                       const PreparedPrototypes<T>& prototypes, int64_t first, uint64_t mask, const Kernels<T>& kernels,
                       Metric metric, const Shape& shape, T* distance) {
    PairBatch<T> batch;
    int64_t lane[PairBatch<T>::size];
    uint64_t finite = 0;
    for (; mask != 0; mask &= mask - 1) {
        const int64_t at = std::countr_zero(mask);
        const int64_t p = first + at;
        if (p >= shape.prototypes || !prototypes.finite(p)) continue;
        finite |= uint64_t{1} << at;
        lane[batch.count] = at;
        batch.add(group.patch(image, position), group.inverse_norm[image * group.positions + position - group.first],
                  prototypes.row(p), prototypes.inverse_norm(p));
    }
    batch.compute(kernels, metric, group.segment, shape);
    for (int64_t j = 0; j < batch.count; ++j) distance[lane[j]] = batch.distance[j];
    return finite;
}

// Takes the weights of close pairs out of one row of a tile of weights; returns how many.
template <typename T>
int64_t take_close(uint64_t mask, T* row, int64_t* lane, T* weight) {
    int64_t count = 0;
    for (; mask != 0; mask &= mask - 1, ++count) {
        lane[count] = std::countr_zero(mask);
        weight[count] = row[lane[count]];
        row[lane[count]] = T(0);
    }
    return count;
}

}  // namespace protokern::cpu
