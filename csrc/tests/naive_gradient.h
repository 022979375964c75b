// Gradients as plain loops over the pairs, and how the core's are compared with them.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "naive.h"

namespace naive {

// Gradients of features in the layout of the features, and of prototypes.
template <typename T>
struct Gradients {
    Guarded<T> features, prototypes;

    explicit Gradients(const Data<T>& data)
        : features(static_cast<int64_t>(data.features.size()), std::numeric_limits<T>::quiet_NaN()),
          prototypes(static_cast<int64_t>(data.prototypes.size()), std::numeric_limits<T>::quiet_NaN()) {}
};

// What `call` writes, which takes a GradientOutput.
template <typename T, typename Call>
Gradients<T> gradients_of(const Data<T>& data, bool features, bool prototypes, const Call& call) {
    Gradients<T> out(data);
    GradientOutput output{features ? out.features.data() : nullptr, {}, prototypes ? out.prototypes.data() : nullptr};
    std::memcpy(output.features_stride, data.problem.features.stride, sizeof output.features_stride);
    call(output);
    EXPECT(out.features.intact() && out.prototypes.intact(), "written outside");
    return out;
}

// The same sums in double.
template <typename T>
struct LoopGradients {
    Data<T>& data;
    std::vector<double> features, prototypes;

    explicit LoopGradients(Data<T>& data)
        : data(data), features(data.features.size()), prototypes(data.prototypes.size()) {}

    // Adds the gradient of g times the distance of prototype k to patch n of image b.
    void add_pair(int64_t b, int64_t k, int64_t n, double g) {
        const Sizes& size = data.size;
        double xx = 0, pp = 0, dot = 0;
        const Metric metric = data.problem.metric;
        const auto each = [&](const auto& body) {
            for (int64_t d = 0; d < size.depth; ++d)
                for (int64_t i = 0; i < size.patch_height; ++i)
                    for (int64_t j = 0; j < size.patch_width; ++j) {
                        T& x = data.patch(b, n, d, i, j);
                        T& p = data.p(k, d, i, j);
                        body(double(x), double(p), features[&x - data.features.data()],
                             prototypes[&p - data.prototypes.data()]);
                    }
        };
        each([&](double x, double p, double&, double&) { xx += x * x, pp += p * p, dot += x * p; });
        const double nx = std::sqrt(xx), np = std::sqrt(pp);
        each([&](double x, double p, double& gx, double& gp) {
            if (metric == Metric::dot) {
                gx -= g * p;
                gp -= g * x;
            } else if (metric == Metric::sqeuclidean) {
                gx += 2 * g * (x - p);
                gp += 2 * g * (p - x);
            } else if (nx > 0 && np > 0) {
                gx += g / nx * (dot / nx / np * x / nx - p / np);
                gp += g / np * (dot / nx / np * p / np - x / nx);
            }
        });
    }

    // `relative` is to the largest sum, or 1.
    void expect_near(const Gradients<T>& result, double relative) const {
        const Sizes& size = data.size;
        double scale = 1;
        for (const double value : features) scale = std::max(scale, std::abs(value));
        for (const double value : prototypes) scale = std::max(scale, std::abs(value));
        const double tolerance = relative * scale;
        for (int64_t b = 0; b < size.images; ++b)
            for (int64_t d = 0; d < size.depth; ++d)
                for (int64_t r = 0; r < size.height; ++r)
                    for (int64_t c = 0; c < size.width; ++c) {
                        const int64_t at = &data.x(b, d, r, c) - data.features.data();
                        EXPECT(std::abs(result.features[at] - features[at]) <= tolerance, "%s: %g, loops %g",
                               describe(size).c_str(), double(result.features[at]), features[at]);
                    }
        for (size_t i = 0; i < prototypes.size(); ++i)
            EXPECT(std::abs(result.prototypes[i] - prototypes[i]) <= tolerance, "%s: prototype %g, loops %g",
                   describe(size).c_str(), double(result.prototypes[i]), prototypes[i]);
    }
};

// From -1 to 1.
template <typename T>
std::vector<T> random_grad(int64_t pairs) {
    std::vector<T> grad(pairs);
    std::mt19937 random(1);
    for (T& value : grad) value = static_cast<T>(static_cast<double>(random() % 2000) / 1000 - 1);
    return grad;
}

inline double similarity_at(const Similarity& similarity, double d) {
    switch (similarity.kind) {
        case Activation::log:
            return std::log1p((1 - similarity.epsilon) / (d + similarity.epsilon));
        case Activation::linear:
            return -d;
        case Activation::exponential:
            return std::exp(-d);
        case Activation::cosine:
            return 1 - d;
        case Activation::exponential_of_root:
            return std::exp(-std::sqrt(d + 1e-14));
        default:
            break;
    }
    throw std::invalid_argument("no similarity");
}

inline double slope_at(const Similarity& similarity, double d) {
    switch (similarity.kind) {
        case Activation::log:
            return (similarity.epsilon - 1) / ((d + 1) * (d + similarity.epsilon));
        case Activation::exponential:
            return -std::exp(-d);
        case Activation::exponential_of_root:
            return -std::exp(-std::sqrt(d + 1e-14)) / (2 * std::sqrt(d + 1e-14));
        case Activation::linear:
        case Activation::cosine:
            return -1;
        default:
            break;
    }
    throw std::invalid_argument("no similarity");
}

}  // namespace naive
