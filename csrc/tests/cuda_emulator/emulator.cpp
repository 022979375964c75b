// longjmp between stacks looks like a mistake to the checks of hardened builds.
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

#ifdef PROTOKERN_SANITIZE
#include <dlfcn.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

Attributes attributes;
cudaError_t launch_error = cudaSuccess;
dim3 block_index, block_size, grid_size, thread_index;

namespace {

constexpr size_t stack_bytes = 256 * 1024;
constexpr size_t exchange_bytes = 64;  // per lane

enum class State { ready, at_warp, at_block, done };

struct Copy {
    void* to;
    const void* from;
    int size, bytes;
    int group;
};

struct Fiber {
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    ucontext_t first;
    jmp_buf place;
    bool started = false;
    State state = State::done;
    const char* waits_for = "";
    std::deque<Copy> copies;
    int group = 0;
    void* fake_stack = nullptr;
};

struct Warp {
    unsigned char slots[2][32 * exchange_bytes];
    int epoch[32];
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared_bytes;
const std::function<void()>* kernel;
jmp_buf scheduler;
unsigned running;

#ifdef PROTOKERN_SANITIZE
// The C library's own: AddressSanitizer puts one before it that makes each jump a system call.
const auto jump =
    reinterpret_cast<decltype(&_longjmp)>(dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "_longjmp"));
const void* main_stack;
size_t main_stack_bytes;
void* main_fake_stack;
void leaving_main(Fiber& fiber) { __sanitizer_start_switch_fiber(&main_fake_stack, fiber.stack.get(), stack_bytes); }
void back_in_main() { __sanitizer_finish_switch_fiber(main_fake_stack, nullptr, nullptr); }
void leaving(Fiber& fiber) { __sanitizer_start_switch_fiber(&fiber.fake_stack, main_stack, main_stack_bytes); }
void back_in(Fiber& fiber) { __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack, &main_stack_bytes); }
#else
constexpr auto jump = _longjmp;
void leaving_main(Fiber&) {}
void back_in_main() {}
void leaving(Fiber&) {}
void back_in(Fiber&) {}
#endif

void to_scheduler(State state, const char* what) {
    Fiber& me = *fibers[running];
    me.state = state;
    me.waits_for = what;
    leaving(me);
    if (_setjmp(me.place) == 0) jump(scheduler, 1);
    back_in(me);
}

// A fiber serves one thread of every block and never returns.
void live() {
    back_in(*fibers[running]);
    for (;;) {
        (*kernel)();
        if (!fibers[running]->copies.empty()) fail("a thread ended before its copies arrived");
        to_scheduler(State::done, "");
    }
}

void resume(unsigned thread) {
    Fiber& fiber = *fibers[thread];
    running = thread;
    thread_index = dim3(thread, 0, 0);
    if (_setjmp(scheduler) == 0) {
        leaving_main(fiber);
        if (fiber.started) jump(fiber.place, 1);
        fiber.started = true;
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = fiber.stack.get();
        fiber.first.uc_stack.ss_size = stack_bytes;
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, live, 0);
        setcontext(&fiber.first);
    }
    back_in_main();
}

// Lets a warp go on whose lanes are all at the same place. Lanes that have ended make it wait for ever.
bool release_warp(unsigned first, unsigned threads) {
    for (unsigned i = first; i < first + 32 && i < threads; ++i)
        if (fibers[i]->state != State::at_warp) return false;
    if (threads - first < 32) fail("a warp operation in a warp of less than 32 threads");
    for (unsigned i = first; i < first + 32; ++i)
        if (std::strcmp(fibers[i]->waits_for, fibers[first]->waits_for) != 0)
            fail("lanes of a warp at different operations");
    for (unsigned i = first; i < first + 32; ++i) fibers[i]->state = State::ready;
    return true;
}

bool release_block(unsigned threads) {
    bool any = false;
    for (unsigned i = 0; i < threads; ++i) {
        if (fibers[i]->state == State::done) continue;
        if (fibers[i]->state != State::at_block) return false;
        any = true;
    }
    for (unsigned i = 0; i < threads; ++i)
        if (fibers[i]->state == State::at_block) fibers[i]->state = State::ready;
    return any;
}

void run_block(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) fibers[i]->state = State::ready;
    for (Warp& warp : warps) std::memset(warp.epoch, 0, sizeof warp.epoch);
    std::memset(shared_bytes.data(), 0xff, shared_bytes.size());
    for (;;) {
        for (unsigned first = 0; first < threads; first += 32) do {
                for (unsigned i = first; i < first + 32 && i < threads; ++i)
                    if (fibers[i]->state == State::ready) resume(i);
            } while (release_warp(first, threads));
        if (release_block(threads)) continue;
        for (unsigned i = 0; i < threads; ++i)
            if (fibers[i]->state != State::done) fail(fibers[i]->waits_for);
        return;
    }
}

float truncated(double value) {
    const float nearest = static_cast<float>(value);
    if (std::isfinite(nearest) && std::abs(static_cast<double>(nearest)) > std::abs(value))
        return std::nextafterf(nearest, 0.0f);
    return nearest;
}

}  // namespace

void fail(const char* what) {
    std::printf("CUDA emulator: block %u, thread %u: %s\n", block_index.x, thread_index.x, what);
    std::fflush(stdout);
    std::abort();
}

void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t, const std::function<void()>& body) {
    if (grid.x == 0 || block.x == 0 || block.x > 1024 || shared > static_cast<size_t>(attributes.shared_memory))
        fail("a launch that the device refuses");
    while (fibers.size() < block.x) fibers.push_back(std::make_unique<Fiber>());
    warps.resize((block.x + 31) / 32);
    shared_bytes.resize(shared + 16);
    kernel = &body;
    grid_size = grid;
    block_size = block;
    for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, 0, 0);
        run_block(block.x);
    }
}

unsigned char* shared_memory() {
    const uintptr_t start = reinterpret_cast<uintptr_t>(shared_bytes.data());
    return reinterpret_cast<unsigned char*>((start + 15) / 16 * 16);
}

void block_barrier() { to_scheduler(State::at_block, "syncthreads"); }

// Two sets of slots: a lane that is ahead writes to the other set.
const unsigned char* exchange(const char* what, const void* mine, size_t size) {
    if (size > exchange_bytes) fail("an exchange of too many bytes");
    Warp& warp = warps[running / 32];
    unsigned char* slots = warp.slots[warp.epoch[running % 32]++ % 2];
    std::memcpy(slots + running % 32 * size, mine, size);
    to_scheduler(State::at_warp, what);
    return slots;
}

void copy_in_background(void* to, const void* from, int size, int bytes) {
    if (reinterpret_cast<uintptr_t>(to) % size != 0 || reinterpret_cast<uintptr_t>(from) % size != 0)
        fail("a copy that is not aligned");
    std::memset(to, 0xff, size);
    Fiber& me = *fibers[running];
    me.copies.push_back({to, from, size, bytes, me.group});
}

void end_copy_group() { ++fibers[running]->group; }

void wait_for_copies(int left) {
    Fiber& me = *fibers[running];
    while (!me.copies.empty() && me.copies.front().group < me.group - left) {
        const Copy copy = me.copies.front();
        me.copies.pop_front();
        std::memset(copy.to, 0, copy.size);
        std::memcpy(copy.to, copy.from, copy.bytes);
    }
}

// The layouts of the PTX manual for m16n8k8 .tf32 and m16n8k16 .bf16: the low bits of a tf32 operand do not count, and
// sums are cut off, not rounded.
void multiply(bool half, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Operands {
        uint32_t a[4], b[2];
    } mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned char* all = exchange(half ? "multiply bf16" : "multiply tf32", &mine, sizeof mine);
    const auto operands = [&](unsigned lane) { return lane_value<Operands>(all, lane); };
    const int depth = half ? 16 : 8;
    const auto part = [&](uint32_t word, int k) {
        if (!half) return bit_cast<float>(word & 0xffffe000u);
        return bit_cast<float>(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
    };
    float values[2][16];  // rows lane / 4 and lane / 4 + 8
    const unsigned group = lane() / 4;
    for (int k = 0; k < depth; ++k) {
        const int word = half ? k / 2 : k;
        const Operands from = operands(group * 4 + word % 4);
        values[0][k] = part(from.a[word / 4 * 2], k);
        values[1][k] = part(from.a[word / 4 * 2 + 1], k);
    }
    for (int column = 0; column < 2; ++column) {
        double total[2] = {0, 0};
        for (int k = 0; k < depth; ++k) {
            const int word = half ? k / 2 : k;
            const Operands from = operands((lane() % 4 * 2 + column) * 4 + word % 4);
            const double b = part(from.b[word / 4], k);
            for (int i = 0; i < 2; ++i) total[i] += values[i][k] * b;
        }
        for (int i = 0; i < 2; ++i) sum[i * 2 + column] = truncated(sum[i * 2 + column] + total[i]);
    }
}

float float_of_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const double fraction = std::ldexp(bits & 1023, -10);
    double value = std::ldexp(exponent ? 1 + fraction : fraction, (exponent ? exponent : 1) - 15);
    if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
    return static_cast<float>(bits & 0x8000 ? -value : value);
}

uint16_t half_of_float(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double size = std::abs(static_cast<double>(value));
    if (std::isnan(value)) return 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);
    const int unit = size < 0x1p-14 ? -24 : exponent - 11;
    // The nearest multiple of the unit, ties to even; carries run into the exponent by themselves.
    const double multiple = std::nearbyint(std::ldexp(size, -unit));
    if (size < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<int>(multiple));
    return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + (static_cast<int>(multiple) - 1024)));
}

}  // namespace emulator

cudaError_t cudaGetLastError() {
    const cudaError_t error = emulator::launch_error;
    emulator::launch_error = cudaSuccess;
    return error;
}
const char* cudaGetErrorString(cudaError_t) { return "an error that the test made"; }
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const int values[] = {emulator::attributes.multiprocessors, emulator::attributes.shared_memory,
                          emulator::attributes.capability / 10, emulator::attributes.capability % 10};
    *value = values[attribute];
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
    std::memset(memory, value, bytes);
    return cudaSuccess;
}
