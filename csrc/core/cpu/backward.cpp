// Backward of min_distance. With s = +1 for features and the roles swapped for prototypes, every pair (image,
// prototype) adds
//   sqeuclidean: 2 g (self - other)
//   cosine:      g / |self| (cos * self / |self| - other / |other|)
//   dot:         g (0 self - other)
// to the pixels of the chosen patch, or to the prototype.
// Features: one worker owns an image and takes its prototypes sorted by patch, ascending. Prototypes: one worker owns a
// panel and takes the images in ascending order. So each sum has one order, whatever the number of workers.
#include <algorithm>
#include <cstring>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "work.h"

namespace protokern::cpu {
namespace {

constexpr int64_t batch = 64;
constexpr int64_t wave_bytes = 2 << 20;  // of pixels that are kept between the two halves

// One side of a pair sum: pointers and factors of up to `batch` terms for one row.
template <typename T>
struct Terms {
    const T* other[batch];
    T weight[batch];
    T self_scale[batch];
    T other_scale[batch];
    int64_t count = 0;
};

template <typename T>
class Backward {
  public:
    Backward(const Problem& problem, const int64_t* patch, const T* grad, const GradientOutput& output,
             const Kernels<T>& kernels, const Executor& executor)
        : problem_(problem),
          patch_(patch),
          grad_(grad),
          output_(output),
          kernels_(kernels),
          executor_(executor),
          shape_(problem, sizeof(T)),
          is_unit_(is_unit(problem.metric)),
          scales_(!is_centred(problem.metric)),
          image_length_(shape_.height * shape_.width * shape_.padded_depth),
          prototypes_(problem, shape_, kernels, false, executor) {
        const int64_t fitting = wave_bytes / (image_length_ * static_cast<int64_t>(sizeof(T)));
        wave_ = std::min(shape_.images, std::max<int64_t>(fitting, executor.workers));
    }

    void run() {
        Carver counter(nullptr);
        carve(counter);
        Scratch memory(counter.used());
        Carver carver(memory.data());
        carve(carver);
        if (output_.prototypes) std::fill_n(grad_prototypes_, shape_.prototypes * shape_.padded_length, T(0));
        fill_segments();
        for (int64_t image = 0; image < shape_.images; image += wave_) {
            const int64_t count = std::min(wave_, shape_.images - image);
            for_each_task(executor_, count, [&](int64_t worker, int64_t i) { run_image(worker, image + i, i); });
            if (output_.prototypes)
                for_each_task(executor_, prototypes_.panels(),
                              [&](int64_t, int64_t panel) { run_panel(image, count, panel); });
        }
        if (output_.prototypes) store_prototypes();
    }

  private:
    void carve(Carver& carver) {
        const int64_t pixels = shape_.height * shape_.width;
        pixels_ = carver.take<T>(wave_ * image_length_);
        if (is_unit_) {
            norm_ = carver.take<double>(wave_ * pixels);
            inverse_norm_ = carver.take<T>(wave_ * shape_.positions);
            cosine_of_pair_ = carver.take<T>(wave_ * shape_.prototypes);
        }
        segment_ = carver.take<int64_t>(shape_.segments);
        if (output_.features) {
            grad_image_ = carver.take<T>(executor_.workers * image_length_);
            start_ = carver.take<int64_t>(executor_.workers * (shape_.positions + 1));
            order_ = carver.take<int64_t>(executor_.workers * shape_.prototypes);
        }
        if (output_.prototypes) grad_prototypes_ = carver.take<T>(shape_.prototypes * shape_.padded_length);
    }

    void fill_segments() {
        for (int64_t s = 0; s < shape_.segments; ++s)
            segment_[s] = (s / shape_.patch_width * shape_.width + s % shape_.patch_width) * shape_.padded_depth;
    }

    const T* patch_pixels(int64_t i, int64_t position) const {
        return pixels_ + i * image_length_ + shape_.pixel(position) * shape_.padded_depth;
    }
    T pair_weight(T g, T scale) const {
        return with_metric(problem_.metric, [=](auto row) { return row.pair_weight(g, scale); });
    }
    T patch_scale(int64_t i, int64_t position) const { return inverse_norm_[i * shape_.positions + position]; }

    void run_image(int64_t worker, int64_t image, int64_t i) {
        const Array4& from = problem_.features;
        kernels_.load_pixels({static_cast<const char*>(from.data) + image * from.stride[0] * element_bytes(from.dtype),
                              from.dtype, shape_.depth, shape_.padded_depth, shape_.width, from.stride[1],
                              from.stride[2], from.stride[3], 0, shape_.height * shape_.width,
                              pixels_ + i * image_length_});
        if (is_unit_) measure_image(image, i);
        if (output_.features) grad_of_image(worker, image, i);
    }

    void measure_image(int64_t image, int64_t i) {
        const int64_t pixels = shape_.height * shape_.width;
        double* norm = norm_ + i * pixels;
        kernels_.measure_rows({pixels_ + i * image_length_, pixels, shape_.padded_depth, nullptr, nullptr, norm});
        for (int64_t n = 0; n < shape_.positions; ++n) {
            double sum = 0;
            for (int64_t s = 0; s < shape_.segments; ++s)
                sum += norm[shape_.pixel(n) + segment_[s] / shape_.padded_depth];
            inverse_norm_[i * shape_.positions + n] = inverse_length<T>(sum);
        }
        for (int64_t begin = 0; begin < shape_.prototypes; begin += batch) {
            const int64_t count = std::min(batch, shape_.prototypes - begin);
            const T* patches[batch];
            const T* rows[batch];
            T patch_scales[batch];
            T prototype_scales[batch];
            for (int64_t j = 0; j < count; ++j) {
                const int64_t position = patch_[image * shape_.prototypes + begin + j];
                patches[j] = patch_pixels(i, position);
                rows[j] = prototypes_.row(begin + j);
                patch_scales[j] = patch_scale(i, position);
                prototype_scales[j] = prototypes_.inverse_norm(begin + j);
            }
            T* out = cosine_of_pair_ + i * shape_.prototypes + begin;
            kernels_.pair_distance({problem_.metric, patches, rows, patch_scales, prototype_scales, count, segment_,
                                    shape_.segments, shape_.padded_depth, out});
            for (int64_t j = 0; j < count; ++j) out[j] = T(1) - out[j];
        }
    }

    // Counting sort of the prototypes by patch; `start` ends up one place ahead, so order[start[n - 1]..start[n]) is
    // n's.
    void sort_by_patch(int64_t image, int64_t* start, int64_t* order) const {
        const int64_t* patch = patch_ + image * shape_.prototypes;
        std::fill_n(start, shape_.positions + 1, 0);
        for (int64_t p = 0; p < shape_.prototypes; ++p) ++start[patch[p] + 1];
        for (int64_t n = 0; n < shape_.positions; ++n) start[n + 1] += start[n];
        for (int64_t p = 0; p < shape_.prototypes; ++p) order[start[patch[p]]++] = p;
    }

    void grad_of_image(int64_t worker, int64_t image, int64_t i) {
        T* grad = grad_image_ + worker * image_length_;
        int64_t* start = start_ + worker * (shape_.positions + 1);
        int64_t* order = order_ + worker * shape_.prototypes;
        std::fill_n(grad, image_length_, T(0));
        sort_by_patch(image, start, order);
        const T* g = grad_ + image * shape_.prototypes;
        for (int64_t n = 0; n < shape_.positions; ++n) {
            const int64_t end = start[n];
            for (int64_t begin = n == 0 ? 0 : start[n - 1]; begin < end; begin += batch) {
                Terms<T> terms;
                terms.count = std::min(batch, end - begin);
                const T scale = is_unit_ ? patch_scale(i, n) : T(0);
                for (int64_t j = 0; j < terms.count; ++j) {
                    const int64_t p = order[begin + j];
                    terms.other[j] = prototypes_.row(p);
                    terms.weight[j] = pair_weight(g[p], scale);
                    if (!scales_) continue;
                    terms.self_scale[j] = is_unit_ ? cosine_of_pair_[i * shape_.prototypes + p] * scale : T(0);
                    terms.other_scale[j] = is_unit_ ? prototypes_.inverse_norm(p) : T(1);
                }
                const int64_t at = shape_.pixel(n) * shape_.padded_depth;
                for (int64_t s = 0; s < shape_.segments; ++s) {
                    add(grad + at + segment_[s], pixels_ + i * image_length_ + at + segment_[s], terms);
                    for (int64_t j = 0; j < terms.count; ++j) terms.other[j] += shape_.padded_depth;
                }
            }
        }
        store(grad, static_cast<char*>(output_.features) +
                        image * output_.features_stride[0] * element_bytes(problem_.features.dtype));
    }

    void store(const T* grad, void* image) const {
        kernels_.store_pixels({grad, image, problem_.features.dtype, shape_.depth, shape_.padded_depth, shape_.width,
                               output_.features_stride[1], output_.features_stride[2], output_.features_stride[3],
                               shape_.height * shape_.width});
    }

    void add(T* out, const T* self, const Terms<T>& terms) const {
        kernels_.accumulate({out, self, terms.other, terms.weight, scales_ ? terms.self_scale : nullptr,
                             scales_ ? terms.other_scale : nullptr, terms.count, shape_.padded_depth});
    }

    void run_panel(int64_t image, int64_t count, int64_t panel) {
        const int64_t first = panel * kernels_.lanes;
        const int64_t end = std::min<int64_t>(first + kernels_.lanes, shape_.prototypes);
        for (int64_t p = first; p < end; ++p)
            for (int64_t begin = 0; begin < count; begin += batch) {
                Terms<T> terms;
                terms.count = std::min(batch, count - begin);
                const T scale = is_unit_ ? prototypes_.inverse_norm(p) : T(0);
                for (int64_t j = 0; j < terms.count; ++j) {
                    const int64_t i = begin + j;
                    const int64_t pair = (image + i) * shape_.prototypes + p;
                    terms.other[j] = patch_pixels(i, patch_[pair]);
                    terms.weight[j] = pair_weight(grad_[pair], scale);
                    if (!scales_) continue;
                    terms.self_scale[j] = is_unit_ ? cosine_of_pair_[i * shape_.prototypes + p] * scale : T(0);
                    terms.other_scale[j] = is_unit_ ? patch_scale(i, patch_[pair]) : T(1);
                }
                for (int64_t s = 0; s < shape_.segments; ++s) {
                    const int64_t at = p * shape_.padded_length + s * shape_.padded_depth;
                    add(grad_prototypes_ + at, prototypes_.row(p) + s * shape_.padded_depth, terms);
                    const int64_t step = s + 1 < shape_.segments ? segment_[s + 1] - segment_[s] : 0;
                    for (int64_t j = 0; j < terms.count; ++j) terms.other[j] += step;
                }
            }
    }

    void store_prototypes() {
        const DType dtype = problem_.prototypes.dtype;
        const int64_t bytes = shape_.length * element_bytes(dtype);
        for_each_task(executor_, prototypes_.panels(), [&](int64_t, int64_t panel) {
            const int64_t first = panel * kernels_.lanes;
            const int64_t end = std::min<int64_t>(first + kernels_.lanes, shape_.prototypes);
            for (int64_t p = first; p < end; ++p)
                kernels_.store_pixels({grad_prototypes_ + p * shape_.padded_length,
                                       static_cast<char*>(output_.prototypes) + p * bytes, dtype, shape_.depth,
                                       shape_.padded_depth, shape_.patch_width, shape_.segments, shape_.patch_width, 1,
                                       shape_.segments});
        });
    }

    const Problem& problem_;
    const int64_t* patch_;
    const T* grad_;
    const GradientOutput& output_;
    const Kernels<T>& kernels_;
    const Executor& executor_;
    const Shape shape_;
    const bool is_unit_;
    const bool scales_;  // both vectors of a pair
    const int64_t image_length_;
    const PreparedPrototypes<T> prototypes_;
    int64_t wave_;  // images whose pixels are kept at a time
    T* pixels_ = nullptr;
    double* norm_ = nullptr;
    T* inverse_norm_ = nullptr;
    T* cosine_of_pair_ = nullptr;
    int64_t* segment_ = nullptr;
    T* grad_image_ = nullptr;
    int64_t* start_ = nullptr;
    int64_t* order_ = nullptr;
    T* grad_prototypes_ = nullptr;
};

// Without images the prototypes' gradient is still written, and without prototypes the features'.
template <typename T>
void run(const Problem& problem, const int64_t* patch, const void* grad_value, const GradientOutput& output,
         const Kernels<T>& kernels, const Executor& executor) {
    Backward<T>(problem, patch, static_cast<const T*>(grad_value), output, kernels, executor).run();
}

}  // namespace

void min_distance_backward(const Problem& problem, const int64_t* patch, const void* grad_value,
                           const GradientOutput& output, const Executor& executor) {
    const InstructionSet& instructions = chosen_instructions();
    if (problem.features.dtype == DType::float64)
        run<double>(problem, patch, grad_value, output, *instructions.float64, executor);
    else
        run<float>(problem, patch, grad_value, output, *instructions.float32, executor);
}

}  // namespace protokern::cpu
