// Gradient of mean_activation. With w = g * slope of the activation / N for every pair (position, prototype), and with
// centred x and p for sqeuclidean, unit vectors for cosine,
//   G[n] = sum_p w p   and   sqeuclidean: grad_x = 2 (x sum_p w - G)    cosine: grad_x = -(G - (G.x) x) / |x|
//   H[p] = sum_n w x   and the same with the roles swapped.
// Close pairs are left out of these products; they add w (p - x) to G and w (x - p) to H, which gives the same gradient
// and vanishes at a copy.
//
// Weights are kept for a wave of positions. Features: one worker owns a position and takes the prototypes ascending.
// Prototypes: one worker owns a panel and takes the positions ascending. So each sum has one order, whatever the number
// of workers and the size of a wave.
#include <algorithm>
#include <vector>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "tile_problem.h"
#include "work.h"

namespace protokern::cpu {
namespace {

constexpr int64_t wave_bytes = 8 << 20;  // of weights, and as much of pixels
constexpr int64_t most_tiles = 4;        // that a worker takes through all panels at a time

template <typename T>
class MeanBackward {
  public:
    MeanBackward(const Problem& problem, const Similarity& similarity, const T* grad, const GradientOutput& output,
                 const TileKernels<T>& tiles, const Executor& executor)
        : problem_(problem),
          similarity_(similarity),
          grad_(grad),
          output_(output),
          tiles_(tiles),
          executor_(executor),
          shape_(problem, sizeof(T)),
          is_unit_(is_unit(problem.metric)),
          lanes_(tiles.plain.lanes),
          prototypes_(problem, shape_, tiles.plain, true, executor),
          lane_bias_(prototypes_, shape_, lanes_, problem.metric) {
        const int64_t tiles_per_image = tiles_in(shape_.positions);
        const int64_t slots = std::max<int64_t>(1, wave_bytes / std::max<int64_t>(1, slot_bytes()));
        const int64_t fitting = wave_bytes / (3 * image_length() * static_cast<int64_t>(sizeof(T)));
        wave_images_ = std::min({shape_.images, std::max<int64_t>(1, slots / tiles_per_image),
                                 std::max<int64_t>(fitting, executor.workers)});
        wave_tiles_ = std::min(slots, tiles_per_image);
        pieces_ = {wave_images_, 1, shape_.positions, 1, shape_.height * shape_.width};
    }

    void run() {
        Carver counter(nullptr);
        carve(counter);
        Scratch memory(counter.used());
        Carver carver(memory.data());
        carve(carver);
        shift_prototypes();
        if (output_.prototypes) {
            std::fill_n(sum_of_x_, shape_.prototypes * shape_.padded_length, T(0));
            std::fill_n(weight_of_prototype_, prototypes_.panels() * lanes_, T(0));
        }
        for (int64_t image = 0; image < shape_.images; image += wave_images_) {
            const int64_t count = std::min(wave_images_, shape_.images - image);
            for_each_task(executor_, count, [&](int64_t, int64_t i) { read_image(image + i, i); });
            for (int64_t first = 0; first < tiles_in(shape_.positions); first += wave_tiles_)
                run_wave(image, count, first, std::min(first + wave_tiles_, tiles_in(shape_.positions)));
            if (output_.features)
                for_each_task(executor_, count, [&](int64_t, int64_t i) { store_image(image + i, i); });
        }
        if (output_.prototypes) store_prototypes();
    }

  private:
    // Weights of one tile of positions for all prototypes.
    int64_t slot_bytes() const {
        return prototypes_.panels() * tile_rows * (lanes_ * static_cast<int64_t>(sizeof(T)) + 8);
    }

    // An image of the wave.
    struct Image {
        PatchGroup<T> group;
        T* row_bias;  // (positions)
        T* grad;      // (H * W, padded_depth)
    };

    struct Worker {
        T* tile;
        uint64_t* close;
        T* grad;         // (lanes)
        T* sum_of_p;     // (rows of a chunk, padded_length): G
        T* weight;       // (rows of a chunk): sum_p w
        const T** rows;  // (tile_rows or lanes)
    };

    void carve(Carver& carver) {
        images_.resize(wave_images_);
        for (Image& image : images_) {
            image.group.carve(carver, shape_, pieces_, tiles_.plain, problem_.metric);
            image.grad = carver.take<T>(output_.features ? image_length() : 0);
            image.row_bias = is_unit_ ? carver.take<T>(shape_.positions) : image.group.bias;
        }
        shifted_ = carver.take<T>(shape_.prototypes * shape_.padded_length);
        workers_.resize(executor_.workers);
        for (Worker& worker : workers_) {
            worker.tile = carver.take<T>(tile_rows * lanes_);
            worker.close = carver.take<uint64_t>(tile_rows);
            worker.grad = carver.take<T>(lanes_);
            worker.sum_of_p = carver.take<T>(output_.features ? chunk_tiles() * tile_rows * shape_.padded_length : 0);
            worker.weight = carver.take<T>(chunk_tiles() * tile_rows);
            worker.rows = carver.take<const T*>(std::max(tile_rows, lanes_));
        }
        if (!output_.prototypes) return;
        const int64_t slots = wave_images_ * wave_tiles_ * prototypes_.panels();
        weights_ = carver.take<T>(slots * tile_rows * lanes_);
        close_ = carver.take<uint64_t>(slots * tile_rows);
        sum_of_x_ = carver.take<T>(shape_.prototypes * shape_.padded_length);
        weight_of_prototype_ = carver.take<T>(prototypes_.panels() * lanes_);
    }

    int64_t image_length() const { return shape_.height * shape_.width * shape_.padded_depth; }

    // Patches of several pixels overlap, so one worker takes all of an image.
    int64_t chunk_tiles() const {
        if (shape_.segments > 1) return wave_tiles_;
        const int64_t share = wave_images_ * wave_tiles_ / (2 * executor_.workers);
        return std::clamp<int64_t>(share, 1, most_tiles);
    }

    // Prototypes as the products want them: centred, or of length 1.
    void shift_prototypes() {
        for_each_task(executor_, prototypes_.panels(), [&](int64_t, int64_t panel) {
            const int64_t end = std::min((panel + 1) * lanes_, shape_.prototypes);
            for (int64_t p = panel * lanes_; p < end; ++p) {
                const T* row = prototypes_.row(p);
                T* out = shifted_ + p * shape_.padded_length;
                for (int64_t s = 0; s < shape_.segments; ++s, row += shape_.padded_depth, out += shape_.padded_depth)
                    for (int64_t d = 0; d < shape_.padded_depth; ++d)
                        out[d] = is_unit_ ? row[d] * prototypes_.inverse_norm(p) : row[d] - prototypes_.centre()[d];
            }
        });
    }

    void read_image(int64_t number, int64_t i) {
        Image& image = images_[i];
        image.group.read(problem_, shape_, tiles_.plain, number, 1, 0, shape_.positions);
        image.group.measure(shape_, tiles_.plain, prototypes_.centre());
        if (is_unit_) {
            const bool finite = image.group.first_bad[0] < 0;
            std::fill_n(image.row_bias, shape_.positions, finite ? T(1) : std::numeric_limits<T>::quiet_NaN());
        }
        if (output_.features) std::fill_n(image.grad, image_length(), T(0));
    }

    // Tiles [first, end) of `count` images from `image` on.
    void run_wave(int64_t image, int64_t count, int64_t first, int64_t end) {
        const int64_t tiles = end - first;
        const int64_t total = count * tiles;
        const int64_t chunk = shape_.segments > 1 ? tiles : chunk_tiles();
        for_each_task(executor_, (total + chunk - 1) / chunk, [&](int64_t worker, int64_t task) {
            run_chunk(workers_[worker], image, first, tiles, task * chunk, std::min((task + 1) * chunk, total));
        });
        if (!output_.prototypes) return;
        for_each_task(executor_, prototypes_.panels(), [&](int64_t worker, int64_t panel) {
            for (int64_t t = 0; t < total; ++t) add_to_panel(workers_[worker], panel, t / tiles, first + t % tiles, t);
        });
    }

    // Tiles of the wave counted from `begin` to `end`, through all panels.
    void run_chunk(Worker& mine, int64_t image, int64_t first, int64_t tiles, int64_t begin, int64_t end) {
        if (output_.features) {
            std::fill_n(mine.sum_of_p, (end - begin) * tile_rows * shape_.padded_length, T(0));
            std::fill_n(mine.weight, (end - begin) * tile_rows, T(0));
        }
        for (int64_t panel = 0; panel < prototypes_.panels(); ++panel)
            for (int64_t t = begin; t < end; ++t) {
                const int64_t i = t / tiles;
                weigh(mine, image + i, i, first + t % tiles, panel);
                if (output_.prototypes) {
                    const int64_t slot = (t * prototypes_.panels() + panel) * tile_rows;
                    std::copy_n(mine.tile, rows_of(first + t % tiles) * lanes_, weights_ + slot * lanes_);
                    std::copy_n(mine.close, rows_of(first + t % tiles), close_ + slot);
                }
                if (output_.features) add_to_rows(mine, i, first + t % tiles, panel, (t - begin) * tile_rows);
            }
        for (int64_t t = begin; t < end && output_.features; ++t)
            finish_rows(mine, images_[t / tiles], first + t % tiles, (t - begin) * tile_rows);
    }

    int64_t begin_of(int64_t tile) const { return tile_begin(tile, shape_.positions); }
    int64_t rows_of(int64_t tile) const { return begin_of(tile + 1) - begin_of(tile); }

    // Leaves the weights of one tile in mine.tile, and which pairs are close in mine.close.
    void weigh(Worker& mine, int64_t number, int64_t i, int64_t tile, int64_t panel) const {
        const Image& image = images_[i];
        const int64_t begin = begin_of(tile);
        const int64_t rows = rows_of(tile);
        tiles_.distances({image.group.centred, rows, image.group.row + begin, image.group.segment, shape_.segments,
                          shape_.padded_depth, image.row_bias + begin, image.group.scale + begin, lane_bias_.of(panel),
                          prototypes_.panel(panel), static_cast<T>(closeness), mine.tile, mine.close});
        for (int64_t r = 0; r < rows; ++r) {
            if (mine.close[r] == 0) continue;
            const T bias = image.row_bias[begin + r];
            mine.close[r] = bias != bias
                                ? 0
                                : measure_close(image.group, 0, begin + r, prototypes_, panel * lanes_, mine.close[r],
                                                tiles_.plain, problem_.metric, shape_, mine.tile + r * lanes_);
        }
        for (int64_t lane = 0; lane < lanes_; ++lane) {
            const int64_t p = panel * lanes_ + lane;
            const bool exists = p < shape_.prototypes;
            mine.grad[lane] = exists ? grad_[number * shape_.prototypes + p] / static_cast<T>(shape_.positions) : T(0);
        }
        tiles_.weigh({similarity_.kind, static_cast<T>(similarity_.epsilon), mine.grad, rows, mine.tile});
    }

    // Adds one tile to G and to the sums of weights; `at` is its first row there.
    void add_to_rows(Worker& mine, int64_t i, int64_t tile, int64_t panel, int64_t at) const {
        const Image& image = images_[i];
        const int64_t first = panel * lanes_;
        const int64_t count = std::min(lanes_, shape_.prototypes - first);
        const int64_t rows = rows_of(tile);
        T* out = mine.sum_of_p + at * shape_.padded_length;
        for (int64_t r = 0; r < rows; ++r) {
            T* row = mine.tile + r * lanes_;
            if (mine.close[r] != 0)
                add_close_to_row(image, begin_of(tile) + r, first, mine.close[r], row, out + r * shape_.padded_length);
            T sum = 0;
            for (int64_t lane = 0; lane < count; ++lane) sum += row[lane];
            mine.weight[at + r] += sum;
        }
        for (int64_t lane = 0; lane < count; ++lane) mine.rows[lane] = shifted_ + (first + lane) * shape_.padded_length;
        tiles_.add_product(
            {mine.tile, lanes_, 1, mine.rows, count, shape_.padded_length, out, shape_.padded_length, rows});
    }

    void add_close_to_row(const Image& image, int64_t position, int64_t first, uint64_t mask, T* row, T* out) const {
        int64_t lane[64];
        T weight[64];
        T own_scale[64];
        T other_scale[64];
        const T* other[64];
        const int64_t count = take_close(mask, row, lane, weight);
        for (int64_t j = 0; j < count; ++j) {
            weight[j] = -weight[j];  // the kernel adds weight * (own - other)
            other[j] = prototypes_.row(first + lane[j]);
            own_scale[j] = image.group.inverse_norm[position];
            other_scale[j] = prototypes_.inverse_norm(first + lane[j]);
        }
        const T* own = image.group.patch(0, position);
        for (int64_t s = 0; s < shape_.segments; ++s, out += shape_.padded_depth) {
            tiles_.plain.accumulate({out, own + image.group.segment[s], other, weight, is_unit_ ? own_scale : nullptr,
                                     is_unit_ ? other_scale : nullptr, count, shape_.padded_depth});
            for (int64_t j = 0; j < count; ++j) other[j] += shape_.padded_depth;
        }
    }

    // Turns G into the gradient of the patches and adds that to the pixels.
    void finish_rows(const Worker& mine, const Image& image, int64_t tile, int64_t at) const {
        for (int64_t r = 0; r < rows_of(tile); ++r) {
            const int64_t position = begin_of(tile) + r;
            const T* sum = mine.sum_of_p + (at + r) * shape_.padded_length;
            const T* centred = image.group.centred + image.group.row[position];
            const T inverse = image.group.inverse_norm[position];
            T along = 0;
            if (is_unit_)
                for (int64_t s = 0; s < shape_.segments; ++s)
                    along += dot(sum + s * shape_.padded_depth, centred + image.group.segment[s]) * inverse;
            T* grad = image.grad + image.group.row[position];
            for (int64_t s = 0; s < shape_.segments; ++s, sum += shape_.padded_depth)
                finish(sum, centred + image.group.segment[s], mine.weight[at + r], along, inverse,
                       grad + image.group.segment[s]);
        }
    }

    T dot(const T* a, const T* b) const {
        T sum = 0;
        for (int64_t d = 0; d < shape_.padded_depth; ++d) sum += a[d] * b[d];
        return sum;
    }

    void finish(const T* sum, const T* own, T weight, T along, T inverse, T* grad) const {
        with_metric_of_mean(problem_.metric, [&](auto row) {
            for (int64_t d = 0; d < shape_.padded_depth; ++d)
                grad[d] += row.gather(row.is_unit ? own[d] * inverse : own[d], sum[d], weight, along, inverse);
        });
    }

    // Adds the wave's tile number `slot`, tile `tile` of image i, to H of one panel.
    void add_to_panel(Worker& mine, int64_t panel, int64_t i, int64_t tile, int64_t slot) {
        const Image& image = images_[i];
        const int64_t begin = begin_of(tile);
        const int64_t rows = rows_of(tile);
        const int64_t first = panel * lanes_;
        const int64_t count = std::min(lanes_, shape_.prototypes - first);
        const int64_t at = (slot * prototypes_.panels() + panel) * tile_rows;
        std::copy_n(weights_ + at * lanes_, rows * lanes_, mine.tile);
        T* weight = weight_of_prototype_ + first;
        for (int64_t r = 0; r < rows; ++r) {
            T* row = mine.tile + r * lanes_;
            if (close_[at + r] != 0) add_close_to_panel(image, begin + r, first, close_[at + r], row);
            for (int64_t lane = 0; lane < lanes_; ++lane) weight[lane] += row[lane];
            const T inverse = image.group.inverse_norm[begin + r];
            for (int64_t lane = 0; lane < lanes_ && is_unit_; ++lane) row[lane] *= inverse;
        }
        for (int64_t s = 0; s < shape_.segments; ++s) {
            for (int64_t r = 0; r < rows; ++r)
                mine.rows[r] = image.group.centred + image.group.row[begin + r] + image.group.segment[s];
            tiles_.add_product({mine.tile, 1, lanes_, mine.rows, rows, shape_.padded_depth,
                                sum_of_x_ + first * shape_.padded_length + s * shape_.padded_depth,
                                shape_.padded_length, count});
        }
    }

    void add_close_to_panel(const Image& image, int64_t position, int64_t first, uint64_t mask, T* row) {
        int64_t lane[64];
        T weight[64];
        const int64_t count = take_close(mask, row, lane, weight);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t p = first + lane[j];
            const T back = -weight[j];
            const T own_scale = prototypes_.inverse_norm(p);
            const T other_scale = image.group.inverse_norm[position];
            for (int64_t s = 0; s < shape_.segments; ++s) {
                const int64_t at = s * shape_.padded_depth;
                const T* other = image.group.patch(0, position) + image.group.segment[s];
                tiles_.plain.accumulate({sum_of_x_ + p * shape_.padded_length + at, prototypes_.row(p) + at, &other,
                                         &back, is_unit_ ? &own_scale : nullptr, is_unit_ ? &other_scale : nullptr, 1,
                                         shape_.padded_depth});
            }
        }
    }

    void store_image(int64_t number, int64_t i) const {
        const DType dtype = problem_.features.dtype;
        char* out = static_cast<char*>(output_.features) + number * output_.features_stride[0] * element_bytes(dtype);
        tiles_.plain.store_pixels({images_[i].grad, out, dtype, shape_.depth, shape_.padded_depth, shape_.width,
                                   output_.features_stride[1], output_.features_stride[2], output_.features_stride[3],
                                   shape_.height * shape_.width});
    }

    // Turns H into the gradient, in the place of the shifted prototypes, which are done with.
    void store_prototypes() {
        const DType dtype = problem_.prototypes.dtype;
        const int64_t bytes = shape_.length * element_bytes(dtype);
        for_each_task(executor_, prototypes_.panels(), [&](int64_t, int64_t panel) {
            const int64_t end = std::min((panel + 1) * lanes_, shape_.prototypes);
            for (int64_t p = panel * lanes_; p < end; ++p) {
                const int64_t at = p * shape_.padded_length;
                T along = 0;
                for (int64_t s = 0; s < shape_.segments && is_unit_; ++s)
                    along += dot(sum_of_x_ + at + s * shape_.padded_depth, shifted_ + at + s * shape_.padded_depth);
                with_metric_of_mean(problem_.metric, [&](auto row) {
                    for (int64_t k = at; k < at + shape_.padded_length; ++k)
                        shifted_[k] = row.gather(shifted_[k], sum_of_x_[k], weight_of_prototype_[p], along,
                                                 prototypes_.inverse_norm(p));
                });
                tiles_.plain.store_pixels({shifted_ + at, static_cast<char*>(output_.prototypes) + p * bytes, dtype,
                                           shape_.depth, shape_.padded_depth, shape_.patch_width, shape_.segments,
                                           shape_.patch_width, 1, shape_.segments});
            }
        });
    }

    const Problem& problem_;
    const Similarity& similarity_;
    const T* grad_;
    const GradientOutput& output_;
    const TileKernels<T>& tiles_;
    const Executor& executor_;
    const Shape shape_;
    const bool is_unit_;
    const int64_t lanes_;
    const PreparedPrototypes<T> prototypes_;
    const LaneBias<T> lane_bias_;
    Pieces pieces_{};
    int64_t wave_images_;
    int64_t wave_tiles_;  // per image
    std::vector<Image> images_;
    std::vector<Worker> workers_;
    T* shifted_ = nullptr;              // (P, padded_length)
    T* weights_ = nullptr;              // (images * tiles of a wave, panels, tile_rows, lanes)
    uint64_t* close_ = nullptr;         // (images * tiles of a wave, panels, tile_rows)
    T* sum_of_x_ = nullptr;             // (P, padded_length): H
    T* weight_of_prototype_ = nullptr;  // (P): sum_n w
};

}  // namespace

// Without images the prototypes' gradient is still written, and without prototypes the features'.
void mean_activation_backward(const Problem& problem, const Similarity& similarity, const void* grad,
                              const GradientOutput& output, const Executor& executor) {
    const InstructionSet& instructions = chosen_instructions();
    if (problem.features.dtype == DType::float64)
        MeanBackward<double>(problem, similarity, static_cast<const double*>(grad), output,
                             tiles_of<double>(instructions), executor)
            .run();
    else
        MeanBackward<float>(problem, similarity, static_cast<const float*>(grad), output, tiles_of<float>(instructions),
                            executor)
            .run();
}

}  // namespace protokern::cpu
