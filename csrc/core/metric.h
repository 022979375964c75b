// Metrics: the distance of two vectors, and what a search, tiles and gradients have to know of it. One struct each; the
// definitions are in protokern/kernels/metric.py. What instruction sets compile takes an argument of the set's own,
// `V`, which keeps the code in its own file. CUDA kernels only ask what kind of vectors a metric takes: nvcc fuses
// other multiplications with additions when their branches are written in another way, and that changes bits.
#pragma once

#include "target.h"

namespace protokern {

enum class Metric { sqeuclidean, cosine, dot };

struct MetricName {
    const char* name;
    Metric kind;
};

// What callers say for them, in the order of the Python table.
constexpr MetricName metric_names[] = {
    {"sqeuclidean", Metric::sqeuclidean}, {"cosine", Metric::cosine}, {"dot", Metric::dot}};

// Of every struct:
//   is_unit            vectors are divided by their lengths, and a zero vector has a rule of its own
//   is_centred         vectors are moved by the mean prototype for products. A prepared vector is one of either kind,
//   or
//                      as it was given.
//   takes_logarithm    of a weight, where a weight goes into a score
//   step               a sum of terms plus that of one more component of two vectors
//   value              the distance out of the sum of all terms
//   score_bias, score_scale   of a patch, from its squared length and the inverse of its length: bias + scale * product
//                      ranks the patches in a search, and is the distance once a tile has added its lane_bias
//   reach              of the longest patch and a prototype, the squared length that a score's rounding is relative to
//   pair_weight        the factor of a pair in the gradient to one of its vectors, which is of length 1 / `inverse`: it
//                      multiplies self - other, both scaled as their cosine asks where `is_unit`; with neither property
//                      0 self - other, in which a vector that is not finite stays visible
//   weigh, weigh_score the distance, and bias and scale of a score, of a patch of a weight above 0
// And of those that mean_activation has to compute, since their mean is no closed form:
//   lane_bias          what a tile adds to a product for the prototype, from its squared length; NaN stays NaN
//   most               no distance is larger, for squared lengths of a patch and a prototype
//   gather             a component of the gradient out of sums over all partners: of the weights, and of the weighted
//                      partners; `along` is the product of the latter with the vector itself, and `own` is prepared

struct SqEuclidean {
    static constexpr bool is_unit = false;
    static constexpr bool is_centred = true;
    static constexpr bool takes_logarithm = true;

    template <class V, typename Value>
    static Value step(Value x, Value p, Value sum) {
        const Value difference = V::sub(x, p);
        return V::fma(difference, difference, sum);
    }
    template <class V, typename T>
    static T value(T sum, bool) {
        return sum;
    }
    template <typename T>
    static T score_bias(double norm) {
        return static_cast<T>(norm);
    }
    template <typename T>
    static T score_scale(T) {
        return T(-2);
    }
    template <typename T>
    static T reach(T patch, T prototype) {
        return (patch + prototype) * (patch + prototype);
    }
    template <typename T>
    static T lane_bias(double norm) {
        return static_cast<T>(norm);
    }
    static double most(double patch, double prototype) { return 2 * (patch + prototype); }
    template <typename T>
    static T pair_weight(T g, T) {
        return 2 * g;
    }
    template <typename T>
    static T gather(T own, T partners, T weight, T, T) {
        return 2 * (own * weight - partners);
    }
    template <typename T>
    static T weigh(T, T logarithm, T distance) {
        return distance - logarithm;
    }
    template <typename T>
    static void weigh_score(T, T logarithm, T& bias, T&) {
        bias -= logarithm;
    }
};

struct Cosine {
    static constexpr bool is_unit = true;
    static constexpr bool is_centred = false;
    static constexpr bool takes_logarithm = false;

    template <class V, typename Value>
    static Value step(Value x, Value p, Value sum) {
        const Value difference = V::sub(x, p);
        return V::fma(difference, difference, sum);
    }
    template <class V, typename T>
    static T value(T sum, bool has_zero) {
        return has_zero ? T(1) : T(0.5) * sum;
    }
    template <typename T>
    static T score_bias(double) {
        return T(0);
    }
    template <typename T>
    static T score_scale(T inverse) {
        return -inverse;
    }
    template <typename T>
    static T reach(T patch, T prototype) {
        return (patch + prototype) * (patch + prototype);
    }
    template <typename T>
    static T lane_bias(double norm) {
        return norm != norm ? static_cast<T>(norm) : T(0);
    }
    static double most(double, double) { return 2; }
    template <typename T>
    static T pair_weight(T g, T inverse) {
        return g * inverse;
    }
    template <typename T>
    static T gather(T own, T partners, T, T along, T inverse) {
        return (along * own - partners) * inverse;
    }
    template <typename T>
    static T weigh(T weight, T, T distance) {
        return (T(1) - weight) + weight * distance;
    }
    template <typename T>
    static void weigh_score(T weight, T, T&, T& scale) {
        scale *= weight;
    }
};

// The negative product: no difference, so nothing is moved, and it is not 0 at a copy.
struct Dot {
    static constexpr bool is_unit = false;
    static constexpr bool is_centred = false;
    static constexpr bool takes_logarithm = false;

    template <class V, typename Value>
    static Value step(Value x, Value p, Value sum) {
        return V::fma(x, p, sum);
    }
    template <class V, typename T>
    static T value(T sum, bool) {
        return -sum;
    }
    template <typename T>
    static T score_bias(double) {
        return T(0);
    }
    template <typename T>
    static T score_scale(T) {
        return T(-1);
    }
    template <typename T>
    static T reach(T patch, T prototype) {
        return 4 * patch * prototype;
    }
    template <typename T>
    static T pair_weight(T g, T) {
        return g;
    }
    template <typename T>
    static T weigh(T weight, T, T distance) {
        return weight * distance;
    }
    template <typename T>
    static void weigh_score(T weight, T, T&, T& scale) {
        scale *= weight;
    }
};

// What `function` returns for the struct of `metric`. No default: a name without a struct does not compile.
template <class Function>
auto with_metric(Metric metric, Function&& function) {
    switch (metric) {
        case Metric::sqeuclidean:
            return function(SqEuclidean{});
        case Metric::cosine:
            return function(Cosine{});
        case Metric::dot:
            return function(Dot{});
    }
    __builtin_unreachable();
}

// The same in mean_activation, which is not called for products, whose mean is a closed form.
template <class Function>
auto with_metric_of_mean(Metric metric, Function&& function) {
    switch (metric) {
        case Metric::sqeuclidean:
            return function(SqEuclidean{});
        case Metric::cosine:
            return function(Cosine{});
        case Metric::dot:
            break;
    }
    __builtin_unreachable();
}

// Comparisons and no switch: what nvcc makes of them is what the kernels were tested with.
static_assert(sizeof(metric_names) / sizeof(MetricName) == 3, "the functions below have to know them all");
PROTOKERN_BOTH constexpr bool is_unit(Metric metric) {
    return (SqEuclidean::is_unit && metric == Metric::sqeuclidean) || (Cosine::is_unit && metric == Metric::cosine) ||
           (Dot::is_unit && metric == Metric::dot);
}
PROTOKERN_BOTH constexpr bool is_centred(Metric metric) {
    return (SqEuclidean::is_centred && metric == Metric::sqeuclidean) ||
           (Cosine::is_centred && metric == Metric::cosine) || (Dot::is_centred && metric == Metric::dot);
}
PROTOKERN_BOTH constexpr bool is_product(Metric metric) { return !is_unit(metric) && !is_centred(metric); }

}  // namespace protokern
