// The k nearest patches of every prototype. The expanded form keeps the k + 1 best of each; where the last of them is
// farther than rounding can explain, the first k are the nearest, and the difference form puts them in order. Where it
// is not, the difference form decides among all patches of the image.
#include <algorithm>
#include <limits>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "tile_problem.h"
#include "weights.h"
#include "work.h"

namespace protokern::cpu {
namespace {

template <typename T>
class TopK {
  public:
    TopK(const Problem& problem, int64_t k, T* value, int64_t* patch, const TileKernels<T>& tiles,
         const Executor& executor)
        : problem_(problem),
          k_(k),
          value_(value),
          patch_(patch),
          tiles_(tiles),
          executor_(executor),
          shape_(problem, sizeof(T)),
          pieces_(Pieces::plan(shape_, sizeof(T), executor.workers)),
          prototypes_(problem, shape_, tiles.plain, true, executor),
          weights_(problem, shape_) {
        const double rounding = std::numeric_limits<T>::epsilon() / 2;
        const double terms = static_cast<double>(shape_.length);
        // As in min_distance.cpp.
        gap_ = static_cast<T>(tiles.plain.dot_error + rounding * (8 + 2 * std::sqrt(terms))) + weights_.rounding();
        vanished_ = 4 * static_cast<T>(terms) * std::numeric_limits<T>::min();
        const int64_t wanted = (2 * executor.workers + pieces_.groups - 1) / pieces_.groups;
        panel_groups_ = std::min(std::max<int64_t>(1, prototypes_.panels()), wanted);
    }

    void run() {
        Carver counter(nullptr);
        Worker(counter, *this);
        Scratch memory(counter.used() * executor_.workers);
        for_each_task(executor_, pieces_.groups * panel_groups_, [&](int64_t worker, int64_t task) {
            Carver carver(memory.data() + worker * counter.used());
            Worker(carver, *this).run(task / panel_groups_, task % panel_groups_);
        });
    }

  private:
    struct Worker {
        Worker(Carver& carver, const TopK& all) : all(all), shape(all.shape_), lanes(all.tiles_.plain.lanes) {
            group.carve(carver, shape, all.pieces_, all.tiles_.plain, all.problem_.metric);
            slots = all.k_ + 1;
            const int64_t panels = all.pieces_.parts > 1 ? all.prototypes_.panels() : 1;
            best = carver.take<T>(panels * slots * lanes);
            index = carver.take<typename LaneIndex<T>::type>(panels * slots * lanes);
            undecided = carver.take<bool>(all.pieces_.parts > 1 ? shape.prototypes : lanes);
            zero = carver.take<T>(lanes);
            tile = carver.take<T>(tile_rows * lanes);
            close = carver.take<uint64_t>(tile_rows);
        }

        const TopK& all;
        const Shape& shape;
        int64_t lanes;
        PatchGroup<T> group;
        int64_t slots;
        T* best;  // of one panel; of all where an image comes in parts
        typename LaneIndex<T>::type* index;
        bool* undecided;
        T* zero;
        T* tile;
        uint64_t* close;
        PairBatch<T> batch;  // pairs that wait to be measured
        int64_t prototype[PairBatch<T>::size];
        int64_t position[PairBatch<T>::size];

        T* value(int64_t image, int64_t p) const { return all.value_ + (image * shape.prototypes + p) * all.k_; }
        int64_t* patch(int64_t image, int64_t p) const { return all.patch_ + (image * shape.prototypes + p) * all.k_; }

        void run(int64_t image_group, int64_t panel_group) {
            const int64_t first_panel = panel_group * all.prototypes_.panels() / all.panel_groups_;
            const int64_t end_panel = (panel_group + 1) * all.prototypes_.panels() / all.panel_groups_;
            const int64_t image = all.pieces_.first_image(image_group, shape);
            const int64_t count = all.pieces_.first_image(image_group + 1, shape) - image;
            std::fill_n(zero, lanes, T(0));
            if (all.pieces_.parts > 1) return run_parts(image, first_panel, end_panel);
            read(image, count, 0);
            for (int64_t panel = first_panel; panel < end_panel; ++panel)
                for (int64_t i = 0; i < count; ++i) run_whole(image + i, i, panel);
        }

        void read(int64_t image, int64_t count, int64_t part) {
            const int64_t first = part * all.pieces_.positions;
            group.read(all.problem_, shape, all.tiles_.plain, image, count, first,
                       std::min(first + all.pieces_.positions, shape.positions));
            group.measure(shape, all.tiles_.plain, all.prototypes_.centre());
            all.weights_.apply(group, image);
        }

        void run_whole(int64_t image, int64_t i, int64_t panel) {
            const int64_t first = panel * lanes;
            const int64_t end = std::min(first + lanes, shape.prototypes);
            if (group.first_bad[i] >= 0) return mark_bad_image(image, group.first_bad[i], first, end);
            clear(0);
            search(i, panel, 0);
            for (int64_t p = first; p < end; ++p) {
                undecided[p - first] = is_undecided(i, p, 0, p - first);
                clear_result(image, p);
                evaluate(image, i, p, 0, p - first, undecided[p - first]);
            }
            flush(image);
            repeat_nearest(image, first, end);
            mark_bad_prototypes(image, first, end);
        }

        // The image's patches come in parts: once for the search, and once more for the distances.
        void run_parts(int64_t image, int64_t first_panel, int64_t end_panel) {
            const int64_t first = first_panel * lanes;
            const int64_t end = std::min(end_panel * lanes, shape.prototypes);
            T largest = 0;
            for (int64_t part = 0; part < all.pieces_.parts; ++part) {
                read(image, 1, part);
                if (group.first_bad[0] >= 0) return mark_bad_image(image, group.first_bad[0], first, end);
                largest = group.largest[0] = std::max(largest, group.largest[0]);
                for (int64_t panel = first_panel; panel < end_panel; ++panel) {
                    if (part == 0) clear(panel);
                    search(0, panel, panel);
                }
            }
            for (int64_t p = first; p < end; ++p) {
                undecided[p] = is_undecided(0, p, p / lanes, p % lanes);
                clear_result(image, p);
            }
            for (int64_t part = 0; part < all.pieces_.parts; ++part) {
                read(image, 1, part);
                for (int64_t p = first; p < end; ++p) evaluate(image, 0, p, p / lanes, p % lanes, undecided[p]);
                flush(image);
            }
            repeat_nearest(image, first, end);
            mark_bad_prototypes(image, first, end);
        }

        void clear(int64_t at) {
            std::fill_n(best + at * slots * lanes, slots * lanes, std::numeric_limits<T>::infinity());
            std::fill_n(index + at * slots * lanes, slots * lanes, 0);
        }

        void search(int64_t i, int64_t panel, int64_t at) {
            for (int64_t t = 0; t < tiles_in(group.positions); ++t) {
                const int64_t begin = tile_begin(t, group.positions);
                const int64_t rows = tile_begin(t + 1, group.positions) - begin;
                const int64_t row = i * group.positions + begin;
                all.tiles_.distances({group.centred + i * group.image_stride, rows, group.row + begin, group.segment,
                                      shape.segments, shape.padded_depth, group.bias + row, group.scale + row, zero,
                                      all.prototypes_.panel(panel), T(0), tile, close});
                all.tiles_.keep_best(
                    {tile, rows, group.first + begin, slots, best + at * slots * lanes, index + at * slots * lanes});
            }
        }

        bool is_undecided(int64_t i, int64_t p, int64_t at, int64_t lane) const {
            const T* scores = best + at * slots * lanes + lane;
            const T reach = with_metric(all.problem_.metric, [&](auto row) {
                return row.reach(group.largest[i], all.prototypes_.search_norms()[p]);
            });
            const T worst = scores[(all.k_ - 1) * lanes];
            const T weighing = all.weights_ ? all.weights_.rounding() * std::abs(worst) : T(0);
            return !(scores[all.k_ * lanes] - worst > all.gap_ * reach + weighing + all.vanished_);
        }

        void clear_result(int64_t image, int64_t p) const {
            std::fill_n(value(image, p), all.k_, std::numeric_limits<T>::infinity());
            std::fill_n(patch(image, p), all.k_, shape.positions);
        }

        // Puts what is at hand into the result: the k patches found, or all where the search is undecided.
        void evaluate(int64_t image, int64_t i, int64_t p, int64_t at, int64_t lane, bool everything) {
            const int64_t end = group.first + group.positions;
            if (everything)
                for (int64_t n = group.first; n < end; ++n)
                    if (all.weights_.takes_part(image, n)) take(image, i, p, n);
            for (int64_t j = 0; j < all.k_ && !everything; ++j) {
                const int64_t n = index[(at * slots + j) * lanes + lane];
                if (n >= group.first && n < end) take(image, i, p, n);
            }
        }

        void take(int64_t image, int64_t i, int64_t p, int64_t n) {
            prototype[batch.count] = p;
            position[batch.count] = n;
            batch.add(group.patch(i, n), group.inverse_norm[i * group.positions + n - group.first],
                      all.prototypes_.row(p), all.prototypes_.inverse_norm(p));
            if (batch.full()) flush(image);
        }

        // Measures the pairs that wait, all of one image, and puts them in their places.
        void flush(int64_t image) {
            batch.compute(all.tiles_.plain, all.problem_.metric, group.segment, shape);
            all.weights_.weigh(image, [&](int64_t b) { return position[b]; }, batch.count, batch.distance);
            for (int64_t b = 0; b < batch.count; ++b) {
                const T distance = batch.distance[b];
                const int64_t n = position[b];
                T* values = value(image, prototype[b]);
                int64_t* patches = patch(image, prototype[b]);
                const auto precedes = [&](int64_t j) {
                    return distance < values[j] || (distance == values[j] && n < patches[j]);
                };
                int64_t j = all.k_ - 1;
                if (!precedes(j)) continue;
                for (; j > 0 && precedes(j - 1); --j) {
                    values[j] = values[j - 1];
                    patches[j] = patches[j - 1];
                }
                values[j] = distance;
                patches[j] = n;
            }
            batch.count = 0;
        }

        // Where fewer patches than k take part, the others are at the place of the nearest, infinitely far.
        void repeat_nearest(int64_t image, int64_t first, int64_t end) const {
            if (!all.weights_) return;
            for (int64_t p = first; p < end; ++p)
                std::replace(patch(image, p), patch(image, p) + all.k_, shape.positions, *patch(image, p));
        }

        void mark_bad_image(int64_t image, int64_t position, int64_t first, int64_t end) const {
            for (int64_t p = first; p < end; ++p) mark(image, p, all.prototypes_.finite(p) ? position : 0);
        }

        void mark_bad_prototypes(int64_t image, int64_t first, int64_t end) const {
            for (int64_t p = first; p < end; ++p)
                if (!all.prototypes_.finite(p)) mark(image, p, 0);
        }

        void mark(int64_t image, int64_t p, int64_t position) const {
            std::fill_n(value(image, p), all.k_, std::numeric_limits<T>::quiet_NaN());
            std::fill_n(patch(image, p), all.k_, position);
        }
    };

    const Problem& problem_;
    const int64_t k_;
    T* value_;
    int64_t* patch_;
    const TileKernels<T>& tiles_;
    const Executor& executor_;
    const Shape shape_;
    const Pieces pieces_;
    const PreparedPrototypes<T> prototypes_;
    const PatchWeights<T> weights_;
    T gap_;       // that rounding cannot have caused, per squared length of the operands
    T vanished_;  // what products too small for a normal number can amount to
    int64_t panel_groups_;
};

template <typename T>
void run(const Problem& problem, int64_t k, void* value, int64_t* patch, const Executor& executor) {
    const TileKernels<T>& tiles = tiles_of<T>(chosen_instructions());
    TopK<T>(problem, k, static_cast<T*>(value), patch, tiles, executor).run();
}

}  // namespace

void topk_distance(const Problem& problem, int64_t k, void* value, int64_t* patch, const Executor& executor) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    if (problem.features.dtype == DType::float64)
        run<double>(problem, k, value, patch, executor);
    else
        run<float>(problem, k, value, patch, executor);
}

}  // namespace protokern::cpu
