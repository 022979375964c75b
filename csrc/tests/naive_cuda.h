// Calls of the CUDA core on the CPU, with workspaces that are guarded and start as NaN.
#pragma once

#include <optional>

#include "launch.h"
#include "naive.h"

namespace naive {

namespace cuda = protokern::cuda;
using cuda::Precision;

inline const cudaStream_t no_stream = nullptr;

// A graphics card that the emulator pretends to be.
struct Card {
    int multiprocessors = 3;
    int shared_memory = 232448;
    int capability = 90;

    cuda::Device use() const {
        emulator::attributes = {multiprocessors, shared_memory, capability};
        return cuda::current_device();
    }
};

struct Workspace {
    std::vector<unsigned char> memory;
    int64_t bytes;
    static constexpr int64_t guard = 256;

    explicit Workspace(int64_t bytes) : memory(bytes + 2 * guard + 256, 0xff), bytes(bytes) {}
    // As aligned as what torch allocates.
    unsigned char* data() {
        const uintptr_t start = reinterpret_cast<uintptr_t>(memory.data()) + guard;
        return reinterpret_cast<unsigned char*>((start + 255) / 256 * 256);
    }
    bool intact() {
        const unsigned char* begin = data();
        for (const unsigned char* at = memory.data(); at < begin; ++at)
            if (*at != 0xff) return false;
        for (const unsigned char* at = begin + bytes; at < memory.data() + memory.size(); ++at)
            if (*at != 0xff) return false;
        return true;
    }
};

template <typename T>
Result<T> cuda_search(const Data<T>& data, Precision precision = Precision::fp32, const Card& card = {},
                      std::optional<Activation> similarity = {}) {
    const Activation kind = similarity.value_or(fitting(data.problem.metric));
    const cuda::Device device = card.use();
    Result<T> result(data.size.images * data.size.prototypes);
    Workspace workspace(cuda::min_distance_workspace(data.problem, precision, device));
    cuda::min_distance(data.problem, precision,
                       {result.value.data(), result.patch.data(), result.activation.data(), kind, 1e-4},
                       workspace.data(), device, no_stream);
    EXPECT(result.value.intact() && result.patch.intact() && result.activation.intact(), "written outside");
    EXPECT(workspace.intact(), "written outside the workspace");
    return result;
}

template <typename T>
Guarded<T> cuda_map(const Data<T>& data) {
    Guarded<T> out(data.size.images * data.size.prototypes * data.positions(), std::numeric_limits<T>::quiet_NaN());
    Workspace workspace(cuda::distance_map_workspace(data.problem));
    cuda::distance_map(data.problem, out.data(), workspace.data(), no_stream);
    EXPECT(out.intact() && workspace.intact(), "written outside");
    return out;
}

template <typename T>
Guarded<T> cuda_at(const Problem& problem, const int64_t* patch, int64_t per_pair = 1) {
    Guarded<T> out(problem.features.size[0] * problem.prototypes.size[0] * per_pair,
                   std::numeric_limits<T>::quiet_NaN());
    Workspace workspace(cuda::distance_at_workspace(problem));
    cuda::distance_at(problem, patch, per_pair, out.data(), workspace.data(), no_stream);
    EXPECT(out.intact() && workspace.intact(), "written outside");
    return out;
}

// As many_sizes, smaller: every thread of a block is emulated.
inline std::vector<Sizes> cuda_sizes() {
    return {{1, 1, 1, 1, 1, 1, 1},    {2, 3, 5, 7, 11, 1, 1},   {3, 16, 7, 7, 33, 1, 1}, {1, 17, 1, 13, 49, 1, 1},
            {2, 64, 4, 8, 48, 1, 1},  {1, 40, 16, 16, 5, 1, 1}, {2, 12, 5, 6, 19, 2, 3}, {1, 3, 3, 3, 4, 3, 3},
            {2, 75, 4, 3, 131, 1, 1}, {2, 1, 9, 4, 7, 1, 4}};
}

}  // namespace naive
