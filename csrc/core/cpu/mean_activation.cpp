// Mean over the grid of the activation of the distance. Distances come a tile at a time from the expanded form; those
// of close pairs are replaced by the difference form, and the tile is added up.
#include <algorithm>
#include <limits>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "tile_problem.h"
#include "work.h"

namespace protokern::cpu {
namespace {

template <typename T>
class Mean {
  public:
    Mean(const Problem& problem, const Similarity& similarity, T* out, const TileKernels<T>& tiles,
         const Executor& executor)
        : problem_(problem),
          similarity_(similarity),
          out_(out),
          tiles_(tiles),
          executor_(executor),
          shape_(problem, sizeof(T)),
          pieces_(Pieces::plan(shape_, sizeof(T), executor.workers)),
          prototypes_(problem, shape_, tiles.plain, true, executor),
          lane_bias_(prototypes_, shape_, tiles.plain.lanes, problem.metric) {
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
            Worker(carver, *this).run(task / panel_groups_, task % panel_groups_);
        });
    }

  private:
    struct Worker {
        Worker(Carver& carver, const Mean& all) : all(all), shape(all.shape_), lanes(all.tiles_.plain.lanes) {
            group.carve(carver, shape, all.pieces_, all.tiles_.plain, all.problem_.metric);
            one = carver.take<T>(tile_rows);
            sum = carver.take<T>(all.prototypes_.panels() * lanes);
            tile = carver.take<T>(tile_rows * lanes);
            close = carver.take<uint64_t>(tile_rows);
        }

        const Mean& all;
        const Shape& shape;
        int64_t lanes;
        PatchGroup<T> group;
        T* one;
        T* sum;  // of the current image
        T* tile;
        uint64_t* close;

        void run(int64_t image_group, int64_t panel_group) {
            const int64_t first_panel = panel_group * all.prototypes_.panels() / all.panel_groups_;
            const int64_t end_panel = (panel_group + 1) * all.prototypes_.panels() / all.panel_groups_;
            const int64_t image = all.pieces_.first_image(image_group, shape);
            const int64_t count = all.pieces_.first_image(image_group + 1, shape) - image;
            std::fill_n(one, tile_rows, T(1));
            if (all.pieces_.parts > 1) return run_parts(image, first_panel, end_panel);
            read(image, count, 0);
            for (int64_t panel = first_panel; panel < end_panel; ++panel)
                for (int64_t i = 0; i < count; ++i) {
                    std::fill_n(sum + panel * lanes, lanes, T(0));
                    add(i, panel);
                    finish(image + i, panel, group.first_bad[i] < 0);
                }
        }

        void run_parts(int64_t image, int64_t first_panel, int64_t end_panel) {
            bool finite = true;
            std::fill_n(sum + first_panel * lanes, (end_panel - first_panel) * lanes, T(0));
            for (int64_t part = 0; part < all.pieces_.parts && finite; ++part) {
                read(image, 1, part);
                finite = group.first_bad[0] < 0;
                for (int64_t panel = first_panel; panel < end_panel; ++panel) add(0, panel);
            }
            for (int64_t panel = first_panel; panel < end_panel; ++panel) finish(image, panel, finite);
        }

        void read(int64_t image, int64_t count, int64_t part) {
            const int64_t first = part * all.pieces_.positions;
            group.read(all.problem_, shape, all.tiles_.plain, image, count, first,
                       std::min(first + all.pieces_.positions, shape.positions));
            group.measure(shape, all.tiles_.plain, all.prototypes_.centre());
        }

        // Adds the activations at the positions at hand to the sums of one panel.
        void add(int64_t i, int64_t panel) {
            if (group.first_bad[i] >= 0) return;
            const Metric metric = all.problem_.metric;
            const T* row_bias = group.bias + i * group.positions;
            const double reach = static_cast<double>(group.largest[i]) * static_cast<double>(group.largest[i]);
            const double farthest = static_cast<double>(all.lane_bias_.largest(panel));
            const double most = with_metric_of_mean(metric, [=](auto row) { return row.most(reach, farthest); });
            const T epsilon = static_cast<T>(all.similarity_.epsilon);
            const int64_t per_logarithm = logarithm_group<T>(most, all.similarity_.epsilon);
            for (int64_t t = 0; t < tiles_in(group.positions); ++t) {
                const int64_t begin = tile_begin(t, group.positions);
                const int64_t rows = tile_begin(t + 1, group.positions) - begin;
                all.tiles_.distances({group.centred + i * group.image_stride, rows, group.row + begin, group.segment,
                                      shape.segments, shape.padded_depth, is_unit(metric) ? one : row_bias + begin,
                                      group.scale + i * group.positions + begin, all.lane_bias_.of(panel),
                                      all.prototypes_.panel(panel), static_cast<T>(closeness), tile, close});
                for (int64_t r = 0; r < rows; ++r)
                    if (close[r] != 0)
                        measure_close(group, i, group.first + begin + r, all.prototypes_, panel * lanes, close[r],
                                      all.tiles_.plain, metric, shape, tile + r * lanes);
                all.tiles_.add_activations(
                    {all.similarity_.kind, epsilon, per_logarithm, tile, rows, sum + panel * lanes});
            }
        }

        void finish(int64_t image, int64_t panel, bool finite) const {
            const int64_t first = panel * lanes;
            const int64_t end = std::min(first + lanes, shape.prototypes);
            T* out = all.out_ + image * shape.prototypes;
            for (int64_t p = first; p < end; ++p) {
                const bool valid = finite && all.prototypes_.finite(p);
                out[p] = valid ? sum[p] / static_cast<T>(shape.positions) : std::numeric_limits<T>::quiet_NaN();
            }
        }
    };

    const Problem& problem_;
    const Similarity& similarity_;
    T* out_;
    const TileKernels<T>& tiles_;
    const Executor& executor_;
    const Shape shape_;
    const Pieces pieces_;
    const PreparedPrototypes<T> prototypes_;
    const LaneBias<T> lane_bias_;
    int64_t panel_groups_;
};

template <typename T>
void run(const Problem& problem, const Similarity& similarity, void* mean, const Executor& executor) {
    const TileKernels<T>& tiles = tiles_of<T>(chosen_instructions());
    Mean<T>(problem, similarity, static_cast<T*>(mean), tiles, executor).run();
}

}  // namespace

void mean_activation(const Problem& problem, const Similarity& similarity, void* mean, const Executor& executor) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    if (problem.features.dtype == DType::float64)
        run<double>(problem, similarity, mean, executor);
    else
        run<float>(problem, similarity, mean, executor);
}

}  // namespace protokern::cpu
