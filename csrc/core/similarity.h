// Similarities: decreasing functions of a distance, and their slopes. One struct each, for the processor and for CUDA
// devices; the definitions are in protokern/kernels/similarity.py. How a target computes logarithms and exponentials is
// its `Maths` (cpu/maths.h, cuda/maths.cuh). An instruction set's own Maths keeps what is made of it in its own file.
#pragma once

#include "target.h"

namespace protokern {

enum class Activation { none, log, linear, exponential, cosine, exponential_of_root };

struct ActivationName {
    const char* name;
    Activation kind;
};

// What callers say for them, in the order of the Python table.
constexpr ActivationName activation_names[] = {{"log", Activation::log},
                                               {"linear", Activation::linear},
                                               {"exp", Activation::exponential},
                                               {"cosine", Activation::cosine},
                                               {"exp_root", Activation::exponential_of_root}};

// Of every struct: `value` at a distance, where `step` is 1 - epsilon as the caller rounds it, and `slope`, the
// derivative of the value with respect to the distance.

// log((d + 1) / (d + epsilon)), written so that it stays exact where the ratio is close to 1.
template <class Maths>
struct Log {
    template <typename T>
    PROTOKERN_DEVICE static T value(T distance, T epsilon, T step) {
        return Maths::log_plus_one(step / (distance + epsilon));
    }
    template <typename T>
    PROTOKERN_DEVICE static T slope(T distance, T epsilon) {
        return Maths::slope_of_log(distance, epsilon);
    }
};

template <class Maths>
struct Linear {
    template <typename T>
    PROTOKERN_DEVICE static T value(T distance, T, T) {
        return -distance;
    }
    template <typename T>
    PROTOKERN_DEVICE static T slope(T distance, T) {
        return Maths::constant(distance, T(-1));
    }
};

template <class Maths>
struct Exponential {
    template <typename T>
    PROTOKERN_DEVICE static T value(T distance, T, T) {
        return Maths::exponential(-distance);
    }
    template <typename T>
    PROTOKERN_DEVICE static T slope(T distance, T) {
        return -Maths::exponential(-distance);
    }
};

template <class Maths>
struct CosineSimilarity {
    template <typename T>
    PROTOKERN_DEVICE static T value(T distance, T, T) {
        return T(1) - distance;
    }
    template <typename T>
    PROTOKERN_DEVICE static T slope(T distance, T) {
        return Maths::constant(distance, T(-1));
    }
};

// exp(-r) of the root r = sqrt(d + 1e-14), which is above 0 at a copy, so that the slope is finite there.
template <class Maths>
struct ExponentialOfRoot {
    template <typename T>
    PROTOKERN_DEVICE static T value(T distance, T, T) {
        return Maths::exponential(-Maths::root(distance + T(1e-14)));
    }
    template <typename T>
    PROTOKERN_DEVICE static T slope(T distance, T) {
        const T root = Maths::root(distance + T(1e-14));
        return Maths::exponential(-root) / (T(-2) * root);
    }
};

// What `function` returns for the struct of `kind`, which is not none. No default: a name without a struct does not
// compile.
template <class Maths, class Function>
auto with_similarity(Activation kind, Function&& function) {
    switch (kind) {
        case Activation::log:
            return function(Log<Maths>{});
        case Activation::linear:
            return function(Linear<Maths>{});
        case Activation::exponential:
            return function(Exponential<Maths>{});
        case Activation::cosine:
            return function(CosineSimilarity<Maths>{});
        case Activation::exponential_of_root:
            return function(ExponentialOfRoot<Maths>{});
        case Activation::none:
            break;
    }
    __builtin_unreachable();
}

// Value and slope of one distance, for CUDA devices. Both are written out, since nvcc fuses other multiplications with
// additions when a branch is written in another way, and that changes bits.
static_assert(sizeof(activation_names) / sizeof(ActivationName) == 5, "the two functions below have to know them all");

template <class Maths, typename T>
PROTOKERN_DEVICE T value_of(Activation kind, T distance, T epsilon) {
    switch (kind) {
        case Activation::log:
            return Log<Maths>::value(distance, epsilon, T(1) - epsilon);
        case Activation::linear:
            return Linear<Maths>::value(distance, epsilon, T(1));
        case Activation::exponential:
            return Exponential<Maths>::value(distance, epsilon, T(1));
        case Activation::cosine:
            return CosineSimilarity<Maths>::value(distance, epsilon, T(1));
        case Activation::exponential_of_root:
            return ExponentialOfRoot<Maths>::value(distance, epsilon, T(1));
        default:  // none
            return distance;
    }
}

template <class Maths, typename T>
PROTOKERN_DEVICE T slope_of(Activation kind, T distance, T epsilon) {
    switch (kind) {
        case Activation::log:
            return Log<Maths>::slope(distance, epsilon);
        case Activation::exponential:
            return Exponential<Maths>::slope(distance, epsilon);
        case Activation::exponential_of_root:
            return ExponentialOfRoot<Maths>::slope(distance, epsilon);
        default:  // linear and cosine
            return Linear<Maths>::slope(distance, epsilon);
    }
}

}  // namespace protokern
