// Fills the table of one instruction set. Included once per kernel file, after that file's SIMD header; everything is
// in an unnamed namespace, so that no two kernel files share a function (see types.h).
#pragma once

#include "activation.h"
#include "fma_loop.h"
#include "pairs.h"
#include "pixels.h"
#include "search.h"
#include "types.h"

namespace {

template <typename V>
constexpr protokern::cpu::Kernels<typename V::Scalar> make_kernels() {
    return {Search<V>::lanes,
            0.0,
            1,
            Search<V>::panel_bytes,
            Search<V>::pack_panel,
            Search<V>::row_bytes,
            Search<V>::pack_rows,
            Search<V>::run,
            Pixels<V>::load,
            Pixels<V>::measure,
            Pixels<V>::store,
            Pairs<V>::distance,
            Pairs<V>::accumulate,
            activate<typename V::Scalar>};
}

}  // namespace
