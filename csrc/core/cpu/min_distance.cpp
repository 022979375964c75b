// Forward: a fast search proposes the nearest patch of every pair (image, prototype), then the value is computed in
// difference form (under dot: as a product) at that patch. Where the runner-up is closer than the search's own rounding
// error, the difference form decides among all patches of the image. So `patch` is the first minimum of exactly the
// numbers that distance_map gives. In a search of rounded values (SearchPrecision::bf16) nothing is decided again:
// `patch` is the first of its best scores.
#include <algorithm>
#include <limits>
#include <numeric>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "weights.h"
#include "work.h"

namespace protokern::cpu {
namespace {

constexpr int64_t pair_batch = 64;

template <typename T>
class Forward {
  public:
    Forward(const Problem& problem, const PoolOutput& output, const Kernels<T>& kernels, const Executor& executor)
        : problem_(problem),
          output_(output),
          kernels_(kernels),
          executor_(executor),
          shape_(problem, sizeof(T)),
          pieces_(Pieces::plan(shape_, sizeof(T), executor.workers)),
          prototypes_(problem, shape_, kernels, true, executor),
          weights_(problem, shape_),
          settles_(kernels.exact || problem.features.dtype == DType::bfloat16),
          gap_(smallest_gap(kernels, shape_) + weights_.rounding()),
          vanished_(4 * static_cast<T>(kernels.products * shape_.length) * std::numeric_limits<T>::min()) {
        // Few images: several workers share one, each with some of the panels.
        const int64_t wanted = (2 * executor.workers + pieces_.groups - 1) / pieces_.groups;
        panel_groups_ = std::min(std::max<int64_t>(1, prototypes_.panels()), wanted);
    }

    void run() {
        Carver counter(nullptr);
        Worker(counter, *this);
        Scratch memory(counter.used() * executor_.workers);
        for_each_task(executor_, pieces_.groups * panel_groups_, [&](int64_t worker, int64_t task) {
            Carver carver(memory.data() + worker * counter.used());
            Worker mine(carver, *this);
            mine.run(task / panel_groups_, task % panel_groups_);
        });
    }

  private:
    // The smallest gap between best and runner-up that rounding cannot have caused, per squared length of the operands:
    // the kernel's own error per product, and that of sums of `length` terms as rounding errors really add up
    // (N. Higham and T. Mary, 2019, with lambda = 2 on both sides).
    static T smallest_gap(const Kernels<T>& kernels, const Shape& shape) {
        const double rounding = std::numeric_limits<T>::epsilon() / 2;
        const double terms = static_cast<double>(kernels.products * shape.length);
        return static_cast<T>(kernels.dot_error + rounding * (8 + 2 * std::sqrt(terms)));
    }

    struct Worker {
        Worker(Carver& carver, const Forward& all) : all(all), kernels(all.kernels_), shape(all.shape_) {
            group.carve(carver, shape, all.pieces_, kernels, all.problem_.metric);
            slots = all.pieces_.parts > 1 ? all.prototypes_.panels() : 1;
            const int64_t states = slots * all.pieces_.images * kernels.lanes;
            best = carver.take<T>(states);
            second = carver.take<T>(states);
            index = carver.take<typename LaneIndex<T>::type>(states);
            const int64_t most_pairs = all.pieces_.parts > 1 ? 0 : all.pieces_.images * kernels.lanes;
            pairs.patch = carver.take<const T*>(most_pairs);
            pairs.prototype = carver.take<const T*>(most_pairs);
            pairs.patch_scale = carver.take<T>(most_pairs);
            pairs.prototype_scale = carver.take<T>(most_pairs);
            pairs.distance = carver.take<T>(most_pairs);
            undecided = carver.take<int64_t>(all.pieces_.parts > 1 ? shape.prototypes : kernels.lanes);
            compared = carver.take<int64_t>(all.pieces_.positions);
        }

        const Forward& all;
        const Kernels<T>& kernels;
        const Shape& shape;
        PatchGroup<T> group;
        // Chosen pairs of all images of the group and one panel.
        struct {
            const T** patch;
            const T** prototype;
            T* patch_scale;
            T* prototype_scale;
            T* distance;
        } pairs;
        int64_t slots;  // panels whose state is kept
        T* best;
        T* second;
        typename LaneIndex<T>::type* index;
        int64_t* undecided;  // prototypes whose runner-up is too close
        int64_t undecided_count = 0;
        int64_t* compared;  // positions that decide() looks at

        T* value(int64_t image) const { return static_cast<T*>(all.output_.value) + image * shape.prototypes; }
        int64_t* patch(int64_t image) const { return all.output_.patch + image * shape.prototypes; }

        void run(int64_t image_group, int64_t panel_group) {
            const int64_t first_panel = panel_group * all.prototypes_.panels() / all.panel_groups_;
            const int64_t end_panel = (panel_group + 1) * all.prototypes_.panels() / all.panel_groups_;
            const int64_t image = all.pieces_.first_image(image_group, shape);
            const int64_t count = all.pieces_.first_image(image_group + 1, shape) - image;
            if (all.pieces_.parts == 1)
                run_whole(image, count, first_panel, end_panel);
            else
                run_parts(image, first_panel, end_panel);
            const int64_t first = first_panel * kernels.lanes;
            const int64_t end = std::min(end_panel * kernels.lanes, shape.prototypes);
            if (all.output_.kind == Activation::none || first >= end) return;
            for (int64_t i = image; i < image + count; ++i)
                kernels.activate(all.output_.kind, all.output_.epsilon, value(i) + first,
                                 static_cast<T*>(all.output_.activation) + i * shape.prototypes + first, end - first);
        }

        void read(int64_t image, int64_t count, int64_t part) {
            const int64_t first = part * all.pieces_.positions;
            group.read(all.problem_, shape, kernels, image, count, first,
                       std::min(first + all.pieces_.positions, shape.positions));
            group.measure(shape, kernels, all.prototypes_.centre());
            all.weights_.apply(group, image);
        }

        // `image` is the first of the group.
        void clear_state(int64_t slot, int64_t image) {
            const int64_t states = group.images * kernels.lanes;
            std::fill_n(best + slot * states, states, std::numeric_limits<T>::infinity());
            std::fill_n(second + slot * states, states, std::numeric_limits<T>::infinity());
            for (int64_t i = 0; i < group.images; ++i)
                std::fill_n(index + slot * states + i * kernels.lanes, kernels.lanes,
                            all.weights_.first_usable(image + i));
        }

        void search(int64_t panel, int64_t slot) {
            const int64_t at = slot * group.images * kernels.lanes;
            PatchRows<T> rows = group.search_rows(shape);
            all.prototypes_.describe(panel, rows);
            kernels.search(rows, group.packed, all.prototypes_.panel(panel), {best + at, second + at, index + at});
        }

        bool is_undecided(int64_t image, int64_t prototype, int64_t at) const {
            return with_metric(all.problem_.metric, [&](auto row) { return is_undecided(row, image, prototype, at); });
        }

        template <class M>
        bool is_undecided(M row, int64_t image, int64_t prototype, int64_t at) const {
            const T reach = row.reach(group.largest[image], all.prototypes_.search_norms()[prototype]);
            const T weighing = all.weights_ ? all.weights_.rounding() * std::abs(best[at]) : T(0);
            return !(second[at] - best[at] > all.gap_ * reach + weighing + all.vanished_);
        }

        // Of the `lanes` prototypes from `first` on, whose states start at `at`. Without a branch per lane: few panels
        // have any.
        bool some_undecided(int64_t image, int64_t first, int64_t lanes, int64_t at) const {
            if (!all.settles_) return false;
            return with_metric(all.problem_.metric, [&](auto row) {
                int some = 0;
                for (int64_t lane = 0; lane < lanes; ++lane) some |= is_undecided(row, image, first + lane, at + lane);
                return some != 0;
            });
        }

        void run_whole(int64_t image, int64_t count, int64_t first_panel, int64_t end_panel) {
            read(image, count, 0);
            for (int64_t panel = first_panel; panel < end_panel; ++panel) {
                clear_state(0, image);
                search(panel, 0);
                finish(image, panel);
            }
        }

        // The group's images, from number `image` on, against one panel, all patches at hand.
        void finish(int64_t image, int64_t panel) {
            const int64_t first = panel * kernels.lanes;
            const int64_t lanes = std::min<int64_t>(kernels.lanes, shape.prototypes - first);
            const bool scaled = is_unit(all.problem_.metric);
            int64_t count = 0;
            for (int64_t i = 0; i < group.images; ++i) {
                if (group.first_bad[i] >= 0) {
                    mark_bad_image(image + i, group.first_bad[i], first, first + lanes);
                    continue;
                }
                const auto* positions = index + i * kernels.lanes;
                std::copy_n(positions, lanes, patch(image + i) + first);
                for (int64_t lane = 0; lane < lanes; ++lane)
                    pairs.patch[count + lane] = group.patch(i, positions[lane]);
                for (int64_t lane = 0; lane < lanes; ++lane)
                    pairs.prototype[count + lane] = all.prototypes_.row(first + lane);
                for (int64_t lane = 0; lane < lanes && scaled; ++lane) {
                    pairs.patch_scale[count + lane] = group.inverse_norm[i * group.positions + positions[lane]];
                    pairs.prototype_scale[count + lane] = all.prototypes_.inverse_norm(first + lane);
                }
                count += lanes;
            }
            {
                kernels.pair_distance({all.problem_.metric, pairs.patch, pairs.prototype, pairs.patch_scale,
                                       pairs.prototype_scale, count, group.segment, shape.segments, shape.padded_depth,
                                       pairs.distance});
            }
            count = 0;
            for (int64_t i = 0; i < group.images; ++i) {
                if (group.first_bad[i] >= 0) continue;
                const int64_t* chosen = patch(image + i) + first;
                all.weights_.weigh(image + i, [=](int64_t j) { return chosen[j]; }, lanes, pairs.distance + count);
                std::copy_n(pairs.distance + count, lanes, value(image + i) + first);
                count += lanes;
                if (some_undecided(i, first, lanes, i * kernels.lanes)) decide_some(image + i, i, first, lanes);
                mark_bad_prototypes(image + i, first, first + lanes);
            }
        }

        void decide_some(int64_t image, int64_t i, int64_t first, int64_t lanes) {
            undecided_count = 0;
            for (int64_t lane = 0; lane < lanes; ++lane) {
                if (!is_undecided(i, first + lane, i * kernels.lanes + lane)) continue;
                undecided[undecided_count++] = first + lane;
                reset(image, first + lane);
            }
            decide(image, i);
        }

        // The image's patches come in parts; states of all panels are kept from part to part.
        void run_parts(int64_t image, int64_t first_panel, int64_t end_panel) {
            const int64_t first = first_panel * kernels.lanes;
            const int64_t end = std::min(end_panel * kernels.lanes, shape.prototypes);
            T largest = 0;
            for (int64_t part = 0; part < all.pieces_.parts; ++part) {
                read(image, 1, part);
                if (group.first_bad[0] >= 0) return mark_bad_image(image, group.first_bad[0], first, end);
                largest = group.largest[0] = std::max(largest, group.largest[0]);
                for (int64_t panel = first_panel; panel < end_panel; ++panel) {
                    if (part == 0) clear_state(panel, image);
                    search(panel, panel);
                    take_over(image, panel);
                }
            }
            undecided_count = 0;
            for (int64_t p = first; p < end && all.settles_; ++p) {
                if (!is_undecided(0, p, p)) continue;
                undecided[undecided_count++] = p;
                reset(image, p);
            }
            for (int64_t part = 0; undecided_count > 0 && part < all.pieces_.parts; ++part) {
                read(image, 1, part);
                decide(image, 0);
            }
            mark_bad_prototypes(image, first, end);
        }

        // Prototypes whose best patch so far lies in this part get their value while its pixels are at hand.
        void take_over(int64_t image, int64_t panel) {
            const int64_t first = panel * kernels.lanes;
            const int64_t end = std::min<int64_t>(first + kernels.lanes, shape.prototypes);
            for (int64_t p = first; p < end; ++p) {
                if (index[p] < group.first || index[p] >= group.first + group.positions) continue;
                patch(image)[p] = index[p];
                evaluate(image, 0, p, p + 1);
            }
        }

        void evaluate(int64_t image, int64_t i, int64_t first, int64_t end) {
            for (int64_t begin = first; begin < end; begin += pair_batch) {
                const int64_t count = std::min(pair_batch, end - begin);
                const T* patches[pair_batch];
                const T* prototypes[pair_batch];
                T patch_scale[pair_batch];
                T prototype_scale[pair_batch];
                const int64_t* position = patch(image) + begin;
                for (int64_t j = 0; j < count; ++j) {
                    patches[j] = group.patch(i, position[j]);
                    prototypes[j] = all.prototypes_.row(begin + j);
                }
                if (is_unit(all.problem_.metric))
                    for (int64_t j = 0; j < count; ++j) {
                        patch_scale[j] = group.inverse_norm[i * group.positions + position[j] - group.first];
                        prototype_scale[j] = all.prototypes_.inverse_norm(begin + j);
                    }
                kernels.pair_distance({all.problem_.metric, patches, prototypes, patch_scale, prototype_scale, count,
                                       group.segment, shape.segments, shape.padded_depth, value(image) + begin});
                all.weights_.weigh(image, [=](int64_t j) { return position[j]; }, count, value(image) + begin);
            }
        }

        void reset(int64_t image, int64_t p) {
            patch(image)[p] = all.weights_.first_usable(image);
            value(image)[p] = std::numeric_limits<T>::infinity();
        }

        // Improves value and patch of the undecided prototypes by the first smallest difference form among the
        // positions at hand. Where there are many, equal patches are the likely reason, and one of each kind is enough.
        void decide(int64_t image, int64_t i) {
            if (undecided_count == 0) return;
            int64_t count = group.positions;
            if (undecided_count >= 8)
                count = group.find_distinct(i, shape, all.weights_.row(image, group.first), compared);
            else
                std::iota(compared, compared + count, 0);
            if (all.weights_)
                count = std::remove_if(compared, compared + count,
                                       [&](int64_t n) { return !all.weights_.takes_part(image, group.first + n); }) -
                        compared;
            for (int64_t u = 0; u < undecided_count; ++u)
                for (int64_t begin = 0; begin < count; begin += pair_batch)
                    compare(image, i, undecided[u], compared + begin, std::min(pair_batch, count - begin));
        }

        void compare(int64_t image, int64_t i, int64_t p, const int64_t* positions, int64_t count) {
            const T* patches[pair_batch];
            const T* prototypes[pair_batch];
            T patch_scale[pair_batch];
            T prototype_scale[pair_batch];
            T distance[pair_batch];
            for (int64_t j = 0; j < count; ++j) {
                patches[j] = group.patch(i, group.first + positions[j]);
                prototypes[j] = all.prototypes_.row(p);
                patch_scale[j] = group.inverse_norm[i * group.positions + positions[j]];
                prototype_scale[j] = all.prototypes_.inverse_norm(p);
            }
            kernels.pair_distance({all.problem_.metric, patches, prototypes, patch_scale, prototype_scale, count,
                                   group.segment, shape.segments, shape.padded_depth, distance});
            all.weights_.weigh(image, [&](int64_t j) { return group.first + positions[j]; }, count, distance);
            for (int64_t j = 0; j < count; ++j) {
                if (!(distance[j] < value(image)[p])) continue;
                value(image)[p] = distance[j];
                patch(image)[p] = group.first + positions[j];
            }
        }

        void mark_bad_image(int64_t image, int64_t position, int64_t first, int64_t end) {
            for (int64_t p = first; p < end; ++p) {
                value(image)[p] = std::numeric_limits<T>::quiet_NaN();
                patch(image)[p] = all.prototypes_.finite(p) ? position : 0;
            }
        }

        void mark_bad_prototypes(int64_t image, int64_t first, int64_t end) {
            if (all.prototypes_.all_finite()) return;
            for (int64_t p = first; p < end; ++p) {
                if (all.prototypes_.finite(p)) continue;
                value(image)[p] = std::numeric_limits<T>::quiet_NaN();
                patch(image)[p] = 0;
            }
        }
    };

    const Problem& problem_;
    const PoolOutput& output_;
    const Kernels<T>& kernels_;
    const Executor& executor_;
    const Shape shape_;
    const Pieces pieces_;
    const PreparedPrototypes<T> prototypes_;
    const PatchWeights<T> weights_;
    const bool settles_;  // a rounded search has the last word, unless its inputs were so round that it lost nothing
    const T gap_;
    const T vanished_;  // what products too small for a normal number can amount to
    int64_t panel_groups_;
};

}  // namespace

void min_distance(const Problem& problem, const PoolOutput& output, const Executor& executor) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    const InstructionSet& instructions = chosen_instructions();
    if (problem.features.dtype == DType::float64)
        Forward<double>(problem, output, *instructions.float64, executor).run();
    else
        Forward<float>(problem, output,
                       problem.precision == SearchPrecision::bf16 ? instructions.bfloat16 : *instructions.float32,
                       executor)
            .run();
}

}  // namespace protokern::cpu
