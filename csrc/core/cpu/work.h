// Scratch memory and the sharing of tasks among workers.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

#include "core.h"

namespace protokern::cpu {

// Uninitialised memory on a cache line of its own, given back with the object. Pages are expensive to get, so a thread
// keeps the blocks of its last calls for the next ones (scratch.cpp), and asks for large pages.
class Scratch {
  public:
    explicit Scratch(int64_t bytes);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    char* data() const { return static_cast<char*>(data_); }
    static int64_t rounded(int64_t bytes) { return bytes <= 0 ? 64 : (bytes + 63) / 64 * 64; }

  private:
    void* data_;
    int64_t capacity_;
};

// Hands out consecutive aligned pieces of one Scratch; built twice, first without memory to learn the total.
class Carver {
  public:
    explicit Carver(char* base) : base_(base) {}
    template <typename U>
    U* take(int64_t count) {
        U* piece = base_ ? reinterpret_cast<U*>(base_ + used_) : nullptr;
        used_ += Scratch::rounded(count * static_cast<int64_t>(sizeof(U)));
        return piece;
    }
    int64_t used() const { return used_; }

  private:
    char* base_;
    int64_t used_ = 0;
};

// 1 / sqrt(squared norm) as the scale of a direction: 0 for a zero vector (and one too small for its inverse), NaN for
// one whose norm is beyond double.
template <typename T>
T inverse_length(double squared_norm) {
    if (!(squared_norm > 0)) return T(0);
    if (std::isinf(squared_norm)) return std::numeric_limits<T>::quiet_NaN();
    const double inverse = 1 / std::sqrt(squared_norm);
    return inverse > static_cast<double>(std::numeric_limits<T>::max()) ? T(0) : static_cast<T>(inverse);
}

// Calls body(worker, task) for every task; a worker that is done takes the next one, so a slow core holds nobody up.
template <typename Body>
void for_each_task(const Executor& executor, int64_t tasks, const Body& body) {
    if (tasks <= 0) return;
    struct Shared {
        const Body* body;
        int64_t tasks;
        std::atomic<int64_t> next{0};
    } shared{&body, tasks};
    const int workers = tasks < executor.workers ? static_cast<int>(tasks) : executor.workers;
    const auto work = [](void* context, int64_t worker) {
        Shared& all = *static_cast<Shared*>(context);
        for (int64_t task = all.next++; task < all.tasks; task = all.next++) (*all.body)(worker, task);
    };
    if (workers <= 1) return work(&shared, 0);
    executor.run(workers, work, &shared);
}

}  // namespace protokern::cpu
