// The gradient of min_distance as plain loops over the pairs.
#pragma once

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

// Adds the gradient of g times the distance of prototype k to patch n of image b.
template <typename T>
void add_pair(Data<T>& data, int64_t b, int64_t k, int64_t n, double g, std::vector<double>& dx,
              std::vector<double>& dp) {
    const Sizes& size = data.size;
    double xx = 0, pp = 0, dot = 0;
    const bool cosine = data.problem.metric == Metric::cosine;
    const auto each = [&](const auto& body) {
        for (int64_t d = 0; d < size.depth; ++d)
            for (int64_t i = 0; i < size.patch_height; ++i)
                for (int64_t j = 0; j < size.patch_width; ++j) {
                    T& x = data.patch(b, n, d, i, j);
                    T& p = data.p(k, d, i, j);
                    body(double(x), double(p), dx[&x - data.features.data()], dp[&p - data.prototypes.data()]);
                }
    };
    each([&](double x, double p, double&, double&) { xx += x * x, pp += p * p, dot += x * p; });
    const double nx = std::sqrt(xx), np = std::sqrt(pp);
    each([&](double x, double p, double& gx, double& gp) {
        if (!cosine) {
            gx += 2 * g * (x - p);
            gp += 2 * g * (p - x);
        } else if (nx > 0 && np > 0) {
            gx += g / nx * (dot / nx / np * x / nx - p / np);
            gp += g / np * (dot / nx / np * p / np - x / nx);
        }
    });
}

}  // namespace naive
