// Portable vectors of 16 bytes (GCC vector extension). No fused multiply-add: results equal plain scalar code.
#pragma once

#include <cstdint>

namespace {

template <typename T, typename I>
struct BaseVector {
    static constexpr int width = 16 / sizeof(T);
    static constexpr int rows = 4;     // microkernel: positions
    static constexpr int columns = 2;  // microkernel: vectors of prototypes
    using Scalar = T;
    using Index = I;
    typedef T Value __attribute__((vector_size(16)));
    typedef I Number __attribute__((vector_size(16)));
    typedef T Unaligned __attribute__((vector_size(16), aligned(alignof(T)), may_alias));
    typedef I UnalignedNumber __attribute__((vector_size(16), aligned(alignof(I)), may_alias));

    static Value zero() { return Value{}; }
    static Value set(T x) { return x - Value{}; }
    static Value load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
    static void store(T* p, Value v) { *reinterpret_cast<Unaligned*>(p) = v; }
    static Number set_number(I x) { return x - Number{}; }
    static Number load_number(const I* p) { return *reinterpret_cast<const UnalignedNumber*>(p); }
    static void store_number(I* p, Number v) { *reinterpret_cast<UnalignedNumber*>(p) = v; }
    static Value add(Value a, Value b) { return a + b; }
    static Value sub(Value a, Value b) { return a - b; }
    static Value mul(Value a, Value b) { return a * b; }
    static Value fma(Value a, Value b, Value c) { return a * b + c; }
    static T sum(Value v) {
        if constexpr (width == 4)
            return (v[0] + v[2]) + (v[1] + v[3]);
        else
            return v[0] + v[1];
    }
    // Sums of four vectors.
    static void sum4(const Value* v, T* out) {
        for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
    }
    // Keeps the smaller score with its position and the runner-up; on a tie the earlier position stays.
    static void keep_smaller(Value s, Number n, Value& best, Value& second, Number& index) {
        const auto less = s < best;
        const Value larger = less ? best : s;
        second = larger < second ? larger : second;
        index = less ? n : index;
        best = less ? s : best;
    }
    static Value div(Value a, Value b) { return a / b; }
    // Bit mask of the lanes where a < b or either is NaN.
    static uint32_t not_at_least(Value a, Value b) {
        uint32_t mask = 0;
        for (int lane = 0; lane < width; ++lane) mask |= static_cast<uint32_t>(!(a[lane] >= b[lane])) << lane;
        return mask;
    }
    // Swaps (a, i) and (b, j) in the lanes where b < a.
    static void put_smaller_first(Value& a, Number& i, Value& b, Number& j) {
        const auto less = b < a;
        const Value smaller = less ? b : a;
        const Number first = less ? j : i;
        b = less ? a : b;
        j = less ? i : j;
        a = smaller;
        i = first;
    }
};

using VectorF32 = BaseVector<float, int32_t>;
using VectorF64 = BaseVector<double, int64_t>;

}  // namespace
