#include <cstdlib>
#include <new>

#include "work.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace protokern::cpu {
namespace {

constexpr int64_t large_page = 2 << 20;

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t most_kept = 0;  // every block is fresh, so that its ends and its lifetime are watched
#else
constexpr int64_t most_kept = 4 << 20;
#endif

// Blocks that this thread may use again.
struct Kept {
    static constexpr int slots = 4;
    void* block[slots] = {};
    int64_t capacity[slots] = {};
    int64_t total = 0;

    ~Kept() {
        for (void* one : block) std::free(one);
    }
    // The smallest kept block that holds `bytes`; null where there is none, or only such as would be mostly unused.
    void* take(int64_t bytes, int64_t& found) {
        int best = -1;
        for (int i = 0; i < slots; ++i) {
            if (block[i] == nullptr || capacity[i] < bytes || capacity[i] / 4 > bytes + large_page) continue;
            if (best < 0 || capacity[i] < capacity[best]) best = i;
        }
        if (best < 0) return nullptr;
        void* taken = block[best];
        found = capacity[best];
        total -= found;
        block[best] = nullptr;
        return taken;
    }
    // Keeps a block where there is room for it; blocks that were kept before make room.
    bool keep(void* one, int64_t bytes) {
        if (bytes > most_kept) return false;
        int slot = -1;
        for (int i = 0; i < slots; ++i) {
            if (block[i] != nullptr && total + bytes > most_kept) drop(i);
            if (block[i] == nullptr) slot = i;
        }
        if (slot < 0) drop(slot = next_dropped++ % slots);
        block[slot] = one;
        capacity[slot] = bytes;
        total += bytes;
        return true;
    }

  private:
    int next_dropped = 0;

    void drop(int slot) {
        std::free(block[slot]);
        block[slot] = nullptr;
        total -= capacity[slot];
    }
};
thread_local Kept kept;

}  // namespace

Scratch::Scratch(int64_t bytes) : data_(kept.take(rounded(bytes), capacity_)) {
    if (data_ != nullptr) return;
    const bool large = bytes >= large_page / 2;
    capacity_ = rounded(bytes);
    if (posix_memalign(&data_, large ? large_page : 64, capacity_) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (large) madvise(data_, capacity_, MADV_HUGEPAGE);  // a wish; without it the memory works all the same
#endif
}

Scratch::~Scratch() {
    if (!kept.keep(data_, capacity_)) std::free(data_);
}

}  // namespace protokern::cpu
