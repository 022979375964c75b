// Fills the table of one instruction set. Included once per kernel file, after that file's SIMD header; everything is
// in an unnamed namespace, so that no two kernel files share a function (see types.h).
#pragma once

#include "fma_loop.h"
#include "maths.h"
#include "pairs.h"
#include "pixels.h"
#include "search.h"
#include "types.h"

namespace {

template <typename V>
constexpr protokern::cpu::Kernels<typename V::Scalar> make_kernels() {
    return {Search<V>::lanes,
            true,
            0.0,
            1,
            Search<V>::panel_bytes,
            Search<V>::pack_panel,
            Search<V>::row_bytes,
            Search<V>::pack_rows,
            Search<V>::run,
            Pixels<V>::load,
            Pixels<V>::template measure<Unrounded>,
            Pixels<V>::store,
            Pairs<V>::distance,
            Pairs<V>::accumulate,
            activate<typename V::Scalar>};
}

// The same with another search.
template <typename S, typename T>
constexpr protokern::cpu::Kernels<T> with_search(protokern::cpu::Kernels<T> kernels) {
    kernels.lanes = S::lanes;
    kernels.dot_error = S::dot_error;
    kernels.products = S::products;
    kernels.panel_bytes = S::panel_bytes;
    kernels.pack_panel = S::pack_panel;
    kernels.row_bytes = S::row_bytes;
    kernels.pack_rows = S::pack_rows;
    kernels.search = S::run;
    return kernels;
}

// Kernels with a search of rounded values, whose word is final.
template <typename S, typename Rounding, typename V>
constexpr protokern::cpu::Kernels<typename V::Scalar> rounded_search() {
    auto kernels = with_search<S>(make_kernels<V>());
    kernels.exact = false;
    kernels.measure_rows = Pixels<V>::template measure<Rounding>;
    return kernels;
}

}  // namespace
