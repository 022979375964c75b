// Independent fused multiply-adds and nothing else: what one core can do at most with this instruction set.
#pragma once

#include <cstdint>

namespace {

template <typename V>
double run_fma_loop(int64_t iterations) {
    constexpr int chains = 12;  // latency 4 on two ports needs 8
    typename V::Value sum[chains];
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = V::set(static_cast<float>(i));
    const auto factor = V::set(0.999f);
    const auto term = V::set(1e-3f);
    for (int64_t t = 0; t < iterations; ++t) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) {
            sum[i] = V::fma(sum[i], factor, term);
            asm volatile("" : "+x"(sum[i]));  // keeps the compiler from folding or reordering the chain
        }
    }
    volatile float sink = 0;
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sink = sink + V::sum(sum[i]);
    return 2.0 * chains * V::width * static_cast<double>(iterations);
}

}  // namespace
