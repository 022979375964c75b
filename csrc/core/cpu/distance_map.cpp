// Distances at all positions, or at given ones, in difference form throughout; under dot, products.
#include <algorithm>
#include <limits>

#include "core.h"
#include "instruction_sets.h"
#include "patches.h"
#include "prototypes.h"
#include "work.h"

namespace protokern::cpu {
namespace {

constexpr int64_t pair_batch = 64;

// Shared by both: features in parts, prototypes as plain rows, and distances of one prototype to some positions.
template <typename T>
class Exact {
  public:
    Exact(const Problem& problem, const Kernels<T>& kernels, const Executor& executor)
        : problem_(problem),
          kernels_(kernels),
          executor_(executor),
          shape_(problem, sizeof(T)),
          pieces_(Pieces::plan(shape_, sizeof(T), executor.workers)),
          prototypes_(problem, shape_, kernels, false, executor) {}

    // Calls body(group, image, i) for every image i of every part of every group.
    template <typename Body>
    void for_each_image(const Body& body) {
        Carver counter(nullptr);
        PatchGroup<T>().carve(counter, shape_, pieces_, kernels_, problem_.metric);
        Scratch memory(counter.used() * executor_.workers);
        for_each_task(executor_, pieces_.groups * pieces_.parts, [&](int64_t worker, int64_t task) {
            Carver carver(memory.data() + worker * counter.used());
            PatchGroup<T> group;
            group.carve(carver, shape_, pieces_, kernels_, problem_.metric);
            const int64_t image = pieces_.first_image(task / pieces_.parts, shape_);
            const int64_t count = pieces_.first_image(task / pieces_.parts + 1, shape_) - image;
            const int64_t first = task % pieces_.parts * pieces_.positions;
            group.read(problem_, shape_, kernels_, image, count, first,
                       std::min(first + pieces_.positions, shape_.positions));
            group.measure(shape_, kernels_, prototypes_.centre());
            for (int64_t i = 0; i < group.images; ++i) body(group, image + i, i);
        });
    }

    // Distances of `count` pairs, at most pair_batch; pair j is (position[j], prototype[j]).
    void pairs(const PatchGroup<T>& group, int64_t i, const int64_t* position, const int64_t* prototype, int64_t count,
               T* distance) const {
        const T* patches[pair_batch];
        const T* rows[pair_batch];
        T patch_scale[pair_batch];
        T prototype_scale[pair_batch];
        for (int64_t j = 0; j < count; ++j) {
            patches[j] = group.patch(i, position[j]);
            rows[j] = prototypes_.row(prototype[j]);
            patch_scale[j] = group.inverse_norm[i * group.positions + position[j] - group.first];
            prototype_scale[j] = prototypes_.inverse_norm(prototype[j]);
        }
        kernels_.pair_distance({problem_.metric, patches, rows, patch_scale, prototype_scale, count, group.segment,
                                shape_.segments, shape_.padded_depth, distance});
        for (int64_t j = 0; j < count; ++j)
            if (!finite(group, i, position[j]) || !prototypes_.finite(prototype[j]))
                distance[j] = std::numeric_limits<T>::quiet_NaN();
    }

    const Shape& shape() const { return shape_; }

  private:
    bool finite(const PatchGroup<T>& group, int64_t i, int64_t position) const {
        if (group.first_bad[i] < 0) return true;
        const double* norm = group.pixel_norm + i * (group.image_stride / shape_.padded_depth);
        for (int64_t s = 0; s < shape_.segments; ++s) {
            const double value = norm[(group.row[position - group.first] + group.segment[s]) / shape_.padded_depth];
            if (value != value) return false;
        }
        return true;
    }

    const Problem& problem_;
    const Kernels<T>& kernels_;
    const Executor& executor_;
    const Shape shape_;
    const Pieces pieces_;
    const PreparedPrototypes<T> prototypes_;
};

template <typename T>
void map(const Problem& problem, T* out, const Kernels<T>& kernels, const Executor& executor) {
    Exact<T> exact(problem, kernels, executor);
    const Shape& shape = exact.shape();
    exact.for_each_image([&](const PatchGroup<T>& group, int64_t image, int64_t i) {
        for (int64_t p = 0; p < shape.prototypes; ++p)
            for (int64_t begin = 0; begin < group.positions; begin += pair_batch) {
                const int64_t count = std::min(pair_batch, group.positions - begin);
                int64_t position[pair_batch];
                int64_t prototype[pair_batch];
                for (int64_t j = 0; j < count; ++j) {
                    position[j] = group.first + begin + j;
                    prototype[j] = p;
                }
                T* row = out + (image * shape.prototypes + p) * shape.positions;
                exact.pairs(group, i, position, prototype, count, row + group.first + begin);
            }
    });
}

template <typename T>
void at(const Problem& problem, const int64_t* patch, int64_t per_pair, T* out, const Kernels<T>& kernels,
        const Executor& executor) {
    Exact<T> exact(problem, kernels, executor);
    const Shape& shape = exact.shape();
    exact.for_each_image([&](const PatchGroup<T>& group, int64_t image, int64_t i) {
        const int64_t wanted = shape.prototypes * per_pair;
        const int64_t first = image * wanted;
        int64_t entry[pair_batch];
        int64_t position[pair_batch];
        int64_t prototype[pair_batch];
        T distance[pair_batch];
        int64_t count = 0;
        for (int64_t e = 0; e < wanted; ++e) {
            const int64_t n = patch[first + e];
            if (n >= group.first && n < group.first + group.positions) {
                entry[count] = e;
                position[count] = n;
                prototype[count++] = e / per_pair;
            }
            if (count < pair_batch && e + 1 < wanted) continue;
            exact.pairs(group, i, position, prototype, count, distance);
            for (int64_t j = 0; j < count; ++j) out[first + entry[j]] = distance[j];
            count = 0;
        }
    });
}

}  // namespace

void distance_map(const Problem& problem, void* distance, const Executor& executor) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    const InstructionSet& instructions = chosen_instructions();
    if (problem.features.dtype == DType::float64)
        map(problem, static_cast<double*>(distance), *instructions.float64, executor);
    else
        map(problem, static_cast<float*>(distance), *instructions.float32, executor);
}

void distance_at(const Problem& problem, const int64_t* patch, int64_t per_pair, void* distance,
                 const Executor& executor) {
    if (problem.features.size[0] == 0 || problem.prototypes.size[0] == 0) return;
    const InstructionSet& instructions = chosen_instructions();
    if (problem.features.dtype == DType::float64)
        at(problem, patch, per_pair, static_cast<double*>(distance), *instructions.float64, executor);
    else
        at(problem, patch, per_pair, static_cast<float*>(distance), *instructions.float32, executor);
}

}  // namespace protokern::cpu
