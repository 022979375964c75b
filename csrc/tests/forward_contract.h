// What min_distance and the distances promise on every device. `search` gives the Result of a problem.
#pragma once

#include "naive.h"

namespace naive {

// Prototypes that are patches, features far from 0, and neighbours that differ from the copy in one last bit, which a
// rounded search cannot tell apart.
template <typename T, typename Search>
void exact_copies_are_found(const Search& search, double offset, bool rounded = false) {
    Data<T> data({3, 128, 7, 7, 50, 1, 1}, Metric::sqeuclidean);
    for (T& value : data.features) value = static_cast<T>(value + offset);
    for (int64_t k = 0; k < 50; ++k)
        for (int64_t d = 0; d < 128; ++d) data.p(k, d, 0, 0) = data.patch(k % 3, (k * 5) % 49, d, 0, 0);
    for (int64_t b = 0; b < 3; ++b)
        for (int64_t d = 0; d < 128; ++d) data.patch(b, 0, d, 0, 0) = data.patch(b, 48, d, 0, 0);
    for (int64_t b = 0; b < 3; ++b) {
        T& changed = data.patch(b, 0, 5, 0, 0);
        changed = std::nextafter(changed, T(1e9));
    }
    const Result<T> result = search(data);
    for (int64_t k = 0; k < 50; ++k) {
        const int64_t pair = k % 3 * 50 + k;
        const int64_t wanted = (k * 5) % 49;
        if (wanted == 0 || (wanted == 48 && rounded)) continue;  // patch 0 was overwritten
        EXPECT(result.value[pair] == 0 && result.patch[pair] == wanted, "offset %g: %g at %ld", offset,
               double(result.value[pair]), long(result.patch[pair]));
        EXPECT(std::abs(result.activation[pair] - 9.2103) < 1e-4, "%g", double(result.activation[pair]));
    }
}

template <typename T, typename Search>
void zero_vectors_have_cosine_distance_one(const Search& search) {
    Data<T> data({1, 6, 3, 3, 5, 1, 1}, Metric::cosine);
    for (T& value : data.features) value = 0;
    for (int64_t d = 0; d < 6; ++d) data.p(2, d, 0, 0) = 0;
    const Result<T> result = search(data);
    for (int64_t k = 0; k < 5; ++k) EXPECT(result.value[k] == 1 && result.patch[k] == 0, "%g", double(result.value[k]));
}

// Checked against the definition of the formats. `distances` gives those of images of one value to 0, (B,).
template <typename Distances>
void half_precision_is_widened_exactly(const std::vector<uint16_t>& patterns, const Distances& distances) {
    const int64_t count = static_cast<int64_t>(patterns.size());
    const uint16_t zero = 0;
    for (const DType dtype : {DType::float16, DType::bfloat16}) {
        const Problem problem{{patterns.data(), dtype, {count, 1, 1, 1}, {1, 1, 1, 1}},
                              {&zero, dtype, {1, 1, 1, 1}, {1, 1, 1, 1}},
                              Metric::sqeuclidean};
        const Guarded<float> distance = distances(problem);
        const int mantissa_bits = dtype == DType::float16 ? 10 : 7;
        const int bias = dtype == DType::float16 ? 15 : 127;
        const int exponents = dtype == DType::float16 ? 32 : 256;
        for (int64_t at = 0; at < count; ++at) {
            const int i = patterns[at];
            const int exponent = (i >> mantissa_bits) & (exponents - 1);
            const double fraction = std::ldexp(i & ((1 << mantissa_bits) - 1), -mantissa_bits);
            const double x = std::ldexp(exponent ? 1 + fraction : fraction, (exponent ? exponent : 1) - bias);
            const float square = static_cast<float>(x) * static_cast<float>(x);
            if (exponent == exponents - 1)
                EXPECT(std::isnan(distance[at]), "%x", i);
            else
                EXPECT(distance[at] == square, "%x: %g, expected %g", i, double(distance[at]), double(square));
        }
    }
}

}  // namespace naive
