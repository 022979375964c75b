// Prototypes in working form: plain rows for exact distances; panels for the search, centred or normalised or neither.
#pragma once

#include <cstdint>

#include "core.h"
#include "patches.h"
#include "work.h"

namespace protokern::cpu {

// The centre of a search is the mean prototype, channel by channel: differences do not change when both sides move by
// it, but rounding errors shrink with the norms. Unit vectors have no centre; their panels hold normalised prototypes.
// Products alone have none either, and panels of prototypes as they are.
template <typename T>
class PreparedPrototypes {
  public:
    // With `panels` false only rows and norms are made.
    PreparedPrototypes(const Problem& problem, const Shape& shape, const Kernels<T>& kernels, bool panels,
                       const Executor& executor);

    int64_t panels() const { return panels_; }
    const void* panel(int64_t index) const { return packed_ + index * panel_bytes_; }
    const T* row(int64_t prototype) const { return rows_ + prototype * row_stride_; }  // (segments, padded_depth)
    // How many prototypes the panel has, and what its search should fetch meanwhile: their rows, for the distances,
    // and the next panel.
    void describe(int64_t panel, PatchRows<T>& search) const {
        const int64_t rows = panel + 1 < panels_ ? lanes_ : count_ - panel * lanes_;
        search.prototypes = rows;
        search.ahead[0] = reinterpret_cast<const char*>(row(panel * lanes_));
        search.ahead_bytes[0] = ((rows - 1) * row_stride_ + padded_length_) * static_cast<int64_t>(sizeof(T));
        search.ahead[1] = packed_ + (panel + 1) * panel_bytes_;
        search.ahead_bytes[1] = panel + 1 < panels_ ? panel_bytes_ : 0;
    }
    const T* centre() const { return centre_; }  // null for metrics that are not centred
    bool all_finite() const { return all_finite_; }
    bool finite(int64_t prototype) const { return norm_[prototype] == norm_[prototype]; }
    double norm(int64_t prototype) const { return norm_[prototype]; }  // squared, of the centred; NaN where not finite
    const T* search_norms() const { return search_norm_; }             // of what is in the panels
    T inverse_norm(int64_t prototype) const {
        return inverse_norm_[prototype];
    }  // 0 for a zero vector; unit vectors only

  private:
    void carve(Carver& carver, const Shape& shape, Metric metric);
    void read(const Problem& problem, const Shape& shape, const Kernels<T>& kernels, int64_t panel);
    void find_centre(const Problem& problem, const Shape& shape, const Kernels<T>& kernels);
    void measure(const Shape& shape, const Kernels<T>& kernels, int64_t panel, T* shifted, double* norms);

    int64_t count_, lanes_, panels_, panel_bytes_, padded_length_;
    bool is_unit_;
    char* packed_ = nullptr;
    const T* rows_ = nullptr;
    T* own_rows_ = nullptr;  // null where the caller's prototypes have the form of rows already
    int64_t row_stride_;
    bool all_finite_ = true;
    T* panel_sum_ = nullptr;  // (panels, padded_depth)
    T* centre_ = nullptr;
    T* search_norm_ = nullptr;
    T* inverse_norm_ = nullptr;
    double* norm_ = nullptr;  // squared; NaN where a value is not finite
    Scratch memory_;
};

}  // namespace protokern::cpu
