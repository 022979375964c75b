#include "prototypes.h"

#include <algorithm>
#include <cmath>

namespace protokern::cpu {

template <typename T>
void PreparedPrototypes<T>::carve(Carver& carver, const Shape& shape, Metric metric) {
    if (rows_ == nullptr) rows_ = own_rows_ = carver.take<T>(shape.prototypes * shape.padded_length);
    packed_ = carver.take<char>(panels_ * panel_bytes_);
    if (is_centred(metric)) {
        panel_sum_ = carver.take<T>(panels_ * shape.padded_depth);
        centre_ = carver.take<T>(shape.padded_depth);
    }
    search_norm_ = carver.take<T>(shape.prototypes);
    inverse_norm_ = carver.take<T>(shape.prototypes);
    norm_ = carver.take<double>(shape.prototypes);
}

namespace {

// The caller's own memory where it is as good as a copy, else null.
template <typename T>
const T* rows_in_place(const Array4& prototypes, const Shape& shape) {
    const DType wanted = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    const bool fits = prototypes.dtype == wanted && shape.segments == 1 && shape.padded_depth == shape.depth &&
                      (prototypes.stride[1] == 1 || shape.depth == 1);
    return fits ? static_cast<const T*>(prototypes.data) : nullptr;
}

template <typename T>
T power_of_two_below(T x) {
    return x > 0 && std::isfinite(x) ? std::ldexp(T(1), std::ilogb(x)) : x;
}

template <typename T>
int64_t bytes_of(const Shape& shape, bool rows, int64_t panels, int64_t panel_bytes) {
    // Rows, panels, sums per panel and the centre, three values a prototype; each piece rounded up to a cache line.
    return 7 * 64 + shape.prototypes * (rows * shape.padded_length * static_cast<int64_t>(sizeof(T)) + 24) +
           panels * panel_bytes + (panels + 1) * shape.padded_depth * static_cast<int64_t>(sizeof(T));
}

}  // namespace

template <typename T>
PreparedPrototypes<T>::PreparedPrototypes(const Problem& problem, const Shape& shape, const Kernels<T>& kernels,
                                          bool panels, const Executor& executor)
    : count_(shape.prototypes),
      lanes_(kernels.lanes),
      panels_((shape.prototypes + kernels.lanes - 1) / kernels.lanes),
      panel_bytes_(panels ? Scratch::rounded(kernels.panel_bytes(shape.padded_length)) : 0),
      padded_length_(shape.padded_length),
      is_unit_(is_unit(problem.metric)),
      rows_(rows_in_place<T>(problem.prototypes, shape)),
      row_stride_(rows_ ? problem.prototypes.stride[0] : shape.padded_length),
      memory_(bytes_of<T>(shape, rows_ == nullptr, panels_, panel_bytes_)) {
    Carver carver(memory_.data());
    carve(carver, shape, problem.metric);
    for_each_task(executor, panels_, [&](int64_t, int64_t panel) { read(problem, shape, kernels, panel); });
    if (centre_) find_centre(problem, shape, kernels);

    const int64_t shifted = Scratch::rounded(lanes_ * shape.padded_length * static_cast<int64_t>(sizeof(T)));
    const int64_t norms = Scratch::rounded(shape.segments * static_cast<int64_t>(sizeof(double)));
    Scratch scratch((shifted + norms) * executor.workers);
    for_each_task(executor, panels_, [&](int64_t worker, int64_t panel) {
        char* mine = scratch.data() + worker * (shifted + norms);
        measure(shape, kernels, panel, reinterpret_cast<T*>(mine), reinterpret_cast<double*>(mine + shifted));
        if (panel_bytes_ == 0) return;
        const int64_t first = panel * lanes_;
        kernels.pack_panel(reinterpret_cast<T*>(mine), shape.padded_length, std::min(lanes_, shape.prototypes - first),
                           shape.padded_length, packed_ + panel * panel_bytes_);
    });
    for (int64_t p = 0; p < shape.prototypes; ++p) all_finite_ = all_finite_ && finite(p);
}

// Values as they are, and their sum per channel where a centre is wanted.
template <typename T>
void PreparedPrototypes<T>::read(const Problem& problem, const Shape& shape, const Kernels<T>& kernels, int64_t panel) {
    const Array4& from = problem.prototypes;
    const int64_t first = panel * lanes_;
    const int64_t end = std::min(first + lanes_, shape.prototypes);
    for (int64_t p = first; p < end && own_rows_; ++p)
        kernels.load_pixels({static_cast<const char*>(from.data) + p * from.stride[0] * element_bytes(from.dtype),
                             from.dtype, shape.depth, shape.padded_depth, shape.patch_width, from.stride[1],
                             from.stride[2], from.stride[3], 0, shape.segments, own_rows_ + p * row_stride_});
    if (!centre_) return;
    T* sum = panel_sum_ + panel * shape.padded_depth;
    std::fill_n(sum, shape.padded_depth, T(0));
    for (int64_t p = first; p < end; ++p)
        for (int64_t s = 0; s < shape.segments; ++s)
            for (int64_t d = 0; d < shape.padded_depth; ++d) sum[d] += row(p)[s * shape.padded_depth + d];
}

template <typename T>
void PreparedPrototypes<T>::find_centre(const Problem& problem, const Shape& shape, const Kernels<T>& kernels) {
    // Values that a rounded search takes as they are stay as they are.
    if (!kernels.exact && problem.prototypes.dtype == DType::bfloat16) {
        std::fill_n(centre_, shape.padded_depth, T(0));
        return;
    }
    const T share = T(1) / static_cast<T>(std::max<int64_t>(1, shape.prototypes * shape.segments));
    std::fill_n(centre_, shape.padded_depth, T(0));
    for (int64_t panel = 0; panel < panels_; ++panel)
        for (int64_t d = 0; d < shape.padded_depth; ++d)
            centre_[d] += panel_sum_[panel * shape.padded_depth + d] * share;
    const auto finite = [](T x) { return std::isfinite(x); };
    if (std::all_of(centre_, centre_ + shape.padded_depth, finite)) return;
    // Some prototype is not finite: take the mean of the others.
    std::fill_n(centre_, shape.padded_depth, T(0));
    for (int64_t p = 0; p < shape.prototypes; ++p) {
        if (!std::all_of(row(p), row(p) + padded_length_, finite)) continue;
        for (int64_t k = 0; k < padded_length_; ++k) centre_[k % shape.padded_depth] += row(p)[k] * share;
    }
    if (!std::all_of(centre_, centre_ + shape.padded_depth, finite)) std::fill_n(centre_, shape.padded_depth, T(0));
}

// Fills the norms; leaves the panel's prototypes in `shifted`: centred, normalised or as they are.
template <typename T>
void PreparedPrototypes<T>::measure(const Shape& shape, const Kernels<T>& kernels, int64_t panel, T* shifted,
                                    double* norms) {
    const int64_t first = panel * lanes_;
    const int64_t count = std::min(lanes_, shape.prototypes - first);
    for (int64_t i = 0; i < count; ++i) {
        kernels.measure_rows(
            {row(first + i), shape.segments, shape.padded_depth, centre_, shifted + i * padded_length_, norms});
        double norm = 0;
        for (int64_t s = 0; s < shape.segments; ++s) norm += norms[s];
        norm_[first + i] = norm;
        inverse_norm_[first + i] = inverse_length<T>(norm);
        search_norm_[first + i] = is_unit_ ? T(1) : static_cast<T>(std::sqrt(norm));
        if (centre_) continue;
        // A search of rounded values has no use for the exact length, only for one that rounds nothing.
        const T inverse = is_unit_ ? inverse_norm_[first + i] : T(1);
        const T scale = kernels.exact ? inverse : power_of_two_below(inverse);
        for (int64_t k = 0; k < padded_length_; ++k) shifted[i * padded_length_ + k] = row(first + i)[k] * scale;
    }
}

template class PreparedPrototypes<float>;
template class PreparedPrototypes<double>;

}  // namespace protokern::cpu
