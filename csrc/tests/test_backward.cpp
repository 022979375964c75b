// min_distance_backward against plain loops over the pairs.
#include "backward_contract.h"

using namespace naive;

namespace {

struct Backward {
    Executor executor;

    void operator()(const Problem& problem, const int64_t* patch, const void* grad,
                    const GradientOutput& output) const {
        min_distance_backward(problem, patch, grad, output, executor);
    }
};

// Every float16 and bfloat16 value survives the way to float32 and back.
void half_precision_survives_the_way_there_and_back() {
    for (const DType dtype : {DType::float16, DType::bfloat16}) {
        std::vector<uint16_t> features(1 << 16), out(1 << 16, 0xdead);
        std::vector<uint16_t> zero(1, 0);
        for (int i = 0; i < 1 << 16; ++i) features[i] = static_cast<uint16_t>(i);
        const std::vector<int64_t> patch(1 << 16, 0);
        const std::vector<float> half(1 << 16, 0.5f);  // gradient 2 * 0.5 * (x - 0) = x
        const Problem problem{{features.data(), dtype, {1 << 16, 1, 1, 1}, {1, 1, 1, 1}},
                              {zero.data(), dtype, {1, 1, 1, 1}, {1, 1, 1, 1}},
                              Metric::sqeuclidean};
        min_distance_backward(problem, patch.data(), half.data(), {out.data(), {1, 1, 1, 1}, nullptr}, serial());
        const int exponent = dtype == DType::float16 ? 0x7c00 : 0x7f80;
        for (int i = 0; i < 1 << 16; ++i) {
            const bool nan = (i & exponent) == exponent && (i & ~exponent & 0x7fff) != 0;
            if (nan)
                EXPECT((out[i] & exponent) == exponent && (out[i] & ~exponent & 0x7fff) != 0, "%x -> %x", i, out[i]);
            else
                EXPECT((out[i] & 0x7fff) == (i & 0x7fff), "%x -> %x", i, out[i]);
        }
    }
}

template <typename T>
void all_of() {
    std::vector<Sizes> sizes = many_sizes();
    sizes.push_back({90, 64, 8, 8, 70, 1, 1});  // more images than one wave holds
    const std::vector<Backward> any_number_of_workers{{serial()}, {threads(2)}, {threads(3)}};
    backward_contract<T>(any_number_of_workers, sizes, 4);
}

}  // namespace

int main() {
    return finish([] {
        all_of<float>();
        all_of<double>();
        half_precision_survives_the_way_there_and_back();
        half_precision_is_rounded_to_nearest_even(Backward{serial()});
    });
}
