// The CUDA kernels of min_distance_backward, run by the emulator, against plain loops over the pairs.
#include "backward_contract.h"
#include "naive_cuda.h"

using namespace naive;

namespace {

struct Backward {
    void operator()(const Problem& problem, const int64_t* patch, const void* grad,
                    const GradientOutput& output) const {
        Workspace workspace(cuda::min_distance_backward_workspace(problem, output.features, output.prototypes));
        cuda::min_distance_backward(problem, patch, grad, output, workspace.data(), no_stream);
        EXPECT(workspace.intact(), "written outside the workspace");
    }
};

template <typename T>
void patches_outside_the_grid_add_nothing() {
    const Data<T> data({1, 4, 2, 2, 3, 1, 1}, Metric::sqeuclidean);
    const Gradients<T> result = gradients_at(Backward{}, data, {4, -1, int64_t(1) << 33}, {T(1), T(1), T(1)});
    for (int64_t i = 0; i < 16; ++i) EXPECT(result.features[i] == 0, "%g", double(result.features[i]));
    for (int64_t i = 0; i < 12; ++i) EXPECT(result.prototypes[i] == 0, "%g", double(result.prototypes[i]));
}

template <typename T>
void all_of() {
    std::vector<Sizes> sizes = cuda_sizes();
    sizes.push_back({70, 5, 3, 4, 40, 1, 1});     // more images than a warp has lanes
    sizes.push_back({2, 260, 6, 6, 75, 1, 1});    // several blocks of channels
    sizes.push_back({1, 2, 120, 110, 40, 1, 1});  // more patches than are counted in shared memory
    backward_contract<T>(std::vector<Backward>(1), sizes, 0);
    patches_outside_the_grid_add_nothing<T>();
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        half_precision_is_rounded_to_nearest_even(Backward{});
    });
}
