// Patches of the features in working form: pixels as rows of plain values, centred for the search, with their norms.
#pragma once

#include <cstdint>

#include "core.h"
#include "work.h"

namespace protokern::cpu {

// Sizes that every driver derives from a problem.
struct Shape {
    explicit Shape(const Problem& problem, int64_t element_bytes);

    int64_t images, depth, height, width;
    int64_t prototypes, patch_height, patch_width;
    int64_t rows, columns;  // grid of positions
    int64_t positions;      // rows * columns
    int64_t segments;       // pixels per patch
    int64_t length;         // segments * depth: values per patch
    int64_t padded_depth;   // depth up to a whole cache line
    int64_t padded_length;  // segments * padded_depth

    // Flat number of the first pixel of a position's patch.
    int64_t pixel(int64_t position) const { return position / columns * width + position % columns; }
    // Pixels from the first one of position `first` to the last one of position `end - 1`.
    int64_t span(int64_t first, int64_t end) const {
        return pixel(end - 1) + (patch_height - 1) * width + patch_width - pixel(first);
    }
};

// How the positions of the images are cut into pieces that stay in a core's cache.
struct Pieces {
    int64_t groups;     // of images, sizes differ by 1 at most
    int64_t images;     // most images of a group; 1 where an image is cut
    int64_t positions;  // per part of an image
    int64_t parts;      // per image
    int64_t pixels;     // most pixels of a part

    int64_t first_image(int64_t group, const Shape& shape) const { return group * shape.images / groups; }
    static Pieces plan(const Shape& shape, int64_t element_bytes, int workers);
};

// One worker's copy of a group of images (or a part of one image).
template <typename T>
struct PatchGroup {
    T* pixels;  // (images, part pixels, padded_depth)
    Metric metric;
    T* centred;          // the same minus the centre; null where pack_rows subtracts it; the pixels where there is none
    const T* centre;     // null for metrics that are not centred
    double* pixel_norm;  // (images, part pixels)
    T* bias;             // (images, positions of the part)
    T* scale;            // (images, positions of the part)
    T* inverse_norm;     // (images, positions of the part): 1 / |patch| of what is searched, 0 for a zero patch
    T* largest;          // (images): largest norm of a searched patch; 1 for unit vectors
    int64_t* first_bad;  // (images): first position whose patch is not finite, or -1
    int64_t* row;        // (positions of the part): offset of a patch in `pixels`
    int64_t* segment;    // (segments): offset of a patch's pixels
    void* packed;        // the kernel's own form of the rows
    int32_t* table;      // (table_size): scratch of find_distinct
    int64_t table_size;  // a power of two
    int64_t image_stride;  // in `pixels`
    int64_t images;
    int64_t first;  // position
    int64_t positions;

    void carve(Carver& carver, const Shape& shape, const Pieces& pieces, const Kernels<T>& kernels, Metric metric);
    // Only the pixels and the row table: enough for distances of pairs under sqeuclidean.
    void read(const Problem& problem, const Shape& shape, const Kernels<T>& kernels, int64_t image, int64_t count,
              int64_t first_position, int64_t end_position);
    // Norms, and what the search needs, of pixels that were read. `middle` is the centre, or null.
    void measure(const Shape& shape, const Kernels<T>& kernels, const T* middle);

    const T* patch(int64_t image, int64_t position) const {
        return pixels + image * image_stride + row[position - first];
    }
    // The first position of every kind of patch, ascending, counted from `first`; patches of a kind are equal in all
    // bits, and so are their weights (positions), if there are any. Returns how many. `out` has room for all positions.
    int64_t find_distinct(int64_t image, const Shape& shape, const T* weight, int64_t* out) const;
    PatchRows<T> search_rows(const Shape& shape) const;
};

}  // namespace protokern::cpu
