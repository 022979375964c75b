// Weights of the patches: what they make of a distance and of a search, and which patches of an image take part.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core.h"
#include "patches.h"
#include "work.h"

namespace protokern::cpu {

// Weighted distances: (1 - w) + w d under cosine, so that 1 - d becomes w (1 - d); d - log(w) under sqeuclidean, so
// that exp(-d) becomes w exp(-d); w d under dot, so that -d becomes -w d. A weight of 1 changes no bit, and a patch of
// weight 0 takes no part.
template <typename T>
class PatchWeights {
  public:
    PatchWeights(const Problem& problem, const Shape& shape)
        : weight_(static_cast<const T*>(problem.patch_weight)),
          metric_(problem.metric),
          positions_(shape.positions),
          memory_(weight_ ? bytes(shape) : 0) {
        if (!weight_) return;
        Carver carver(memory_.data());
        logarithm_ = carver.take<T>(shape.images * positions_);
        first_bad_ = carver.take<int64_t>(shape.images);
        const bool takes_logarithm = with_metric(metric_, [](auto row) { return row.takes_logarithm; });
        first_usable_ = carver.take<int64_t>(shape.images);
        for (int64_t image = 0; image < shape.images; ++image) {
            const T* weight = weight_ + image * positions_;
            const auto is_none = [](T w) { return !(w >= 0 && w <= 1); };
            const auto counts = [](T w) { return w > 0; };
            const int64_t usable = std::find_if(weight, weight + positions_, counts) - weight;
            const int64_t bad = std::find_if(weight, weight + positions_, is_none) - weight;
            first_usable_[image] = usable < positions_ ? usable : 0;
            first_bad_[image] = bad < positions_ ? bad : usable < positions_ ? -1 : 0;
            for (int64_t n = 0; n < positions_; ++n)
                logarithm_[image * positions_ + n] = takes_logarithm ? std::log(weight[n]) : T(0);
        }
    }

    explicit operator bool() const { return weight_ != nullptr; }

    // How much more two weighted scores, and the distances behind them, may be off by rounding: this times the squared
    // reach of the operands, and this times the score itself, in which the logarithm is.
    T rounding() const { return weight_ ? 16 * std::numeric_limits<T>::epsilon() / 2 : T(0); }

    // The first patch of an image that takes part, or 0.
    int64_t first_usable(int64_t image) const { return weight_ ? first_usable_[image] : 0; }
    bool takes_part(int64_t image, int64_t position) const {
        return !weight_ || weight_[image * positions_ + position] > 0;
    }
    // The weights of an image's patches from one on; null without weights.
    const T* row(int64_t image, int64_t first) const {
        return weight_ ? weight_ + image * positions_ + first : nullptr;
    }

    // The weighted distances of `count` pairs, in place; `position(j)` is the patch of pair j.
    template <typename Position>
    void weigh(int64_t image, const Position& position, int64_t count, T* distance) const {
        if (!weight_) return;
        with_metric(metric_, [&](auto row) {
            for (int64_t j = 0; j < count; ++j) {
                const int64_t at = image * positions_ + position(j);
                const T w = weight_[at];
                const T weighted = row.weigh(w, logarithm_[at], distance[j]);
                distance[j] = w > 0 ? weighted : std::numeric_limits<T>::infinity();
            }
        });
    }

    // Puts the weights into the scores of a group that was measured, and marks images that they spoil: with a weight
    // that is NaN or outside of [0, 1], or with none that counts, which spoils the first patch. `image` is the first.
    void apply(PatchGroup<T>& group, int64_t image) const {
        if (!weight_) return;
        for (int64_t i = 0; i < group.images; ++i) {
            const int64_t from = (image + i) * positions_ + group.first;
            T* bias = group.bias + i * group.positions;
            T* scale = group.scale + i * group.positions;
            with_metric(metric_, [&](auto row) {
                for (int64_t n = 0; n < group.positions; ++n)
                    if (weight_[from + n] > 0)
                        row.weigh_score(weight_[from + n], logarithm_[from + n], bias[n], scale[n]);
                    else
                        bias[n] = std::numeric_limits<T>::infinity(), scale[n] = T(0);
            });
            const int64_t bad = first_bad_[image + i];
            if (bad < group.first || bad >= group.first + group.positions) continue;
            int64_t& first = group.first_bad[i];
            first = first < 0 ? bad : std::min(first, bad);
        }
    }

  private:
    static int64_t bytes(const Shape& shape) {
        Carver counter(nullptr);
        counter.take<T>(shape.images * shape.positions);
        counter.take<int64_t>(2 * shape.images + 64);
        return counter.used();
    }

    const T* weight_;  // (B, N), of the caller; null: all are 1
    Metric metric_;
    int64_t positions_;
    Scratch memory_;
    T* logarithm_ = nullptr;           // (B, N), of the weights; 0 where the metric takes none
    int64_t* first_bad_ = nullptr;     // (B): first patch without a valid weight, 0 where none takes part, or -1
    int64_t* first_usable_ = nullptr;  // (B)
};

}  // namespace protokern::cpu
