#include "patches.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace protokern::cpu {
namespace {

// Less than half of the second-level cache for the pixels leaves as much for the searched copy, and room for panels.
// Measured: larger groups meet every panel that is fetched with more positions, which outweighs the crowding.
int64_t pixel_budget() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
    const int64_t cache = 0;
#endif
    return (cache > 0 ? cache : 1 << 20) * 9 / 20;
}

// Positions that a group should have to be worth fetching all prototypes for.
constexpr int64_t rewarding = 384;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Shape::Shape(const Problem& problem, int64_t element_bytes)
    : images(problem.features.size[0]),
      depth(problem.features.size[1]),
      height(problem.features.size[2]),
      width(problem.features.size[3]),
      prototypes(problem.prototypes.size[0]),
      patch_height(problem.prototypes.size[2]),
      patch_width(problem.prototypes.size[3]),
      rows(height - patch_height + 1),
      columns(width - patch_width + 1),
      positions(rows * columns),
      segments(patch_height * patch_width),
      length(segments * depth) {
    const int64_t line = 64 / element_bytes;
    padded_depth = divide_up(depth, line) * line;
    padded_length = segments * padded_depth;
}

Pieces Pieces::plan(const Shape& shape, int64_t element_bytes, int workers) {
    const int64_t budget = pixel_budget();
    // A patch of several pixels may be unrolled by a kernel, so it counts with all its values.
    const int64_t image_bytes = shape.positions * shape.padded_length * element_bytes;
    Pieces pieces{};
    if (image_bytes > 2 * budget) {
        pieces.groups = shape.images;
        pieces.images = 1;
        pieces.parts = std::min(divide_up(image_bytes, budget), shape.positions);
        pieces.positions = divide_up(shape.positions, pieces.parts);
        pieces.parts = divide_up(shape.positions, pieces.positions);
    } else {
        const int64_t fitting = std::max<int64_t>(1, budget / image_bytes);
        const int64_t least = std::min(fitting, divide_up(rewarding, shape.positions));
        // A slow worker leaves some to others.
        const int64_t shared_out =
            std::clamp<int64_t>(shape.images / least, std::min<int64_t>(shape.images, 2 * workers), 4 * workers);
        pieces.groups = std::max(divide_up(shape.images, fitting), shared_out);
        pieces.images = divide_up(shape.images, pieces.groups);
        pieces.parts = 1;
        pieces.positions = shape.positions;
    }
    for (int64_t part = 0; part < pieces.parts; ++part) {
        const int64_t first = part * pieces.positions;
        const int64_t end = std::min(first + pieces.positions, shape.positions);
        pieces.pixels = std::max(pieces.pixels, shape.span(first, end));
    }
    return pieces;
}

template <typename T>
void PatchGroup<T>::carve(Carver& carver, const Shape& shape, const Pieces& pieces, const Kernels<T>& kernels,
                          Metric metric) {
    this->metric = metric;
    const int64_t all_pixels = pieces.images * pieces.pixels;
    const int64_t all_positions = pieces.images * pieces.positions;
    pixels = carver.take<T>(all_pixels * shape.padded_depth);
    const int64_t packed_bytes = kernels.row_bytes(all_positions, shape.padded_length);
    centred = pixels;
    if (is_centred(metric)) centred = packed_bytes > 0 ? nullptr : carver.take<T>(all_pixels * shape.padded_depth);
    pixel_norm = carver.take<double>(all_pixels);
    bias = carver.take<T>(all_positions);
    scale = carver.take<T>(all_positions);
    inverse_norm = carver.take<T>(all_positions);
    largest = carver.take<T>(pieces.images);
    first_bad = carver.take<int64_t>(pieces.images);
    row = carver.take<int64_t>(pieces.positions);
    segment = carver.take<int64_t>(shape.segments);
    packed = carver.take<char>(packed_bytes);
    for (table_size = 4; table_size < 2 * pieces.positions;) table_size *= 2;
    table = carver.take<int32_t>(table_size);
    image_stride = pieces.pixels * shape.padded_depth;
}

template <typename T>
void PatchGroup<T>::read(const Problem& problem, const Shape& shape, const Kernels<T>& kernels, int64_t image,
                         int64_t count, int64_t first_position, int64_t end_position) {
    const Array4& from = problem.features;
    const int64_t bytes = element_bytes(from.dtype);
    images = count;
    first = first_position;
    positions = end_position - first_position;
    const int64_t first_pixel = shape.pixel(first);
    for (int64_t i = 0; i < positions; ++i) row[i] = (shape.pixel(first + i) - first_pixel) * shape.padded_depth;
    for (int64_t s = 0; s < shape.segments; ++s)
        segment[s] = (s / shape.patch_width * shape.width + s % shape.patch_width) * shape.padded_depth;
    for (int64_t i = 0; i < count; ++i)
        kernels.load_pixels({static_cast<const char*>(from.data) + (image + i) * from.stride[0] * bytes, from.dtype,
                             shape.depth, shape.padded_depth, shape.width, from.stride[1], from.stride[2],
                             from.stride[3], first_pixel, shape.span(first, end_position), pixels + i * image_stride});
}

template <typename T>
void PatchGroup<T>::measure(const Shape& shape, const Kernels<T>& kernels, const T* middle) {
    centre = middle;
    const int64_t count = shape.span(first, first + positions);
    const int64_t norm_stride = image_stride / shape.padded_depth;
    for (int64_t i = 0; i < images; ++i) {
        double* norm = pixel_norm + i * norm_stride;
        kernels.measure_rows({pixels + i * image_stride, count, shape.padded_depth, centre,
                              centred ? centred + i * image_stride : nullptr, norm});
        first_bad[i] = -1;
        double most = 0;
        for (int64_t n = 0; n < positions; ++n) {
            double sum = 0;
            for (int64_t s = 0; s < shape.segments; ++s) sum += norm[(row[n] + segment[s]) / shape.padded_depth];
            if (std::isnan(sum) && first_bad[i] < 0) first_bad[i] = first + n;
            most = std::max(most, sum);
            const T inverse = inverse_length<T>(sum);
            const int64_t at = i * positions + n;
            inverse_norm[at] = inverse;
            with_metric(metric, [&](auto of) {
                bias[at] = of.template score_bias<T>(sum);
                scale[at] = of.score_scale(inverse);
            });
        }
        largest[i] = is_unit(metric) ? T(1) : static_cast<T>(std::sqrt(most));
    }
    kernels.pack_rows(search_rows(shape), packed);
}

template <typename T>
int64_t PatchGroup<T>::find_distinct(int64_t image, const Shape& shape, const T* weight, int64_t* out) const {
    std::fill_n(table, table_size, -1);
    const T* base = pixels + image * image_stride;
    const auto equal = [&](int64_t a, int64_t b) {
        if (weight && weight[a] != weight[b]) return false;
        for (int64_t s = 0; s < shape.segments; ++s)
            if (std::memcmp(base + row[a] + segment[s], base + row[b] + segment[s], shape.depth * sizeof(T)) != 0)
                return false;
        return true;
    };
    int64_t count = 0;
    for (int64_t n = 0; n < positions; ++n) {
        const T norm = inverse_norm[image * positions + n];  // equal patches have equal ones
        uint64_t bits = 0;
        std::memcpy(&bits, &norm, sizeof norm);
        int64_t slot = static_cast<int64_t>(bits * 0x9e3779b97f4a7c15u >> 32) & (table_size - 1);
        while (table[slot] >= 0 && !equal(out[table[slot]], n)) slot = (slot + 1) & (table_size - 1);
        if (table[slot] >= 0) continue;
        table[slot] = static_cast<int32_t>(count);
        out[count++] = n;
    }
    return count;
}

template <typename T>
PatchRows<T> PatchGroup<T>::search_rows(const Shape& shape) const {
    return {centred ? centred : pixels,
            image_stride,
            images,
            positions,
            first,
            row,
            segment,
            shape.segments,
            shape.padded_depth,
            bias,
            scale,
            centred ? nullptr : centre,
            0,
            {},
            {}};
}

template struct PatchGroup<float>;
template struct PatchGroup<double>;

}  // namespace protokern::cpu
