// Blocks whose threads wait for each other, on a CPU. A thread of a block is a fibre, so that thread_local is what a block shares; some
// blocks run at the same time, each on a thread of the host, in an order that changes from launch to launch. Fibres run in an order of
// their own in each round, so that nothing rests on which comes first.
//
// Under ThreadSanitizer fibres count as threads, and only what CUDA orders is ordered: by __syncthreads, and by a __threadfence before
// and after an atomic; shuffles and atomics alone order nothing. In that build the environment variable STAND_IN_WITHOUT=file.cu:line
// leaves out the barrier or fence of that line.

#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
// The scheduler's own memory is not a subject of the test.
#define STAND_IN_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define STAND_IN_UNSEEN
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#endif

namespace stand_in {

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "block %u: %s\n", blockIdx.x, message);
  std::abort();
}

// A meeting of some threads. Two places to order memory by, in turn, so that who leaves late is not ordered after who meets again early.
struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
  char order[2];
};

struct Fibre {
  ucontext_t context;
  void* tsan = nullptr;
  Barrier* awaited = nullptr;
  unsigned generation = 0;
  bool done = false;
  // Of the memory model: whether a fence came before, and the atomic that a fence is still to come after.
  bool fenced = false;
  void* unfenced = nullptr;
};

constexpr int kWarp = 32;

class Block {
 public:
  explicit Block(int threads) : threads_(threads), fibres_(new Fibre[threads]), warps_(new Barrier[threads]), order_(threads) {
    for (auto& slots : exchanged_) slots.reset(new std::uint64_t[threads]);
    stacks_ =
        static_cast<char*>(mmap(nullptr, threads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) fail("no memory for stacks");
    std::iota(order_.begin(), order_.end(), 0);
#ifdef __SANITIZE_THREAD__
    host_ = __tsan_get_current_fiber();
    for (int t = 0; t < threads; ++t) fibres_[t].tsan = __tsan_create_fiber(0);
#endif
  }

  ~Block() {
#ifdef __SANITIZE_THREAD__
    for (int t = 0; t < threads_; ++t) __tsan_destroy_fiber(fibres_[t].tsan);
#endif
    munmap(stacks_, threads_ * kStack);
  }

  Block(const Block&) = delete;

  // Runs body(argument) as each thread of the block.
  STAND_IN_UNSEEN void run(void (*body)(void*), void* argument, std::mt19937& random) {
    running = this;
    body_ = body;
    argument_ = argument;
    for (int t = 0; t < threads_; ++t) prepare(fibres_[t], stacks_ + t * kStack);
    __tsan_release(&begin_);
    for (int left = threads_; left > 0;) {
      std::shuffle(order_.begin(), order_.end(), random);
      bool moved = false;
      for (const int t : order_) {
        Fibre& fibre = fibres_[t];
        if (fibre.done || (fibre.awaited != nullptr && fibre.awaited->generation == fibre.generation)) continue;
        fibre.awaited = nullptr;
        moved = true;
        current_ = t;
        threadIdx = {static_cast<unsigned>(t), 0, 0};
        to(fibre.tsan);
        swapcontext(&home_, &fibre.context);
        left -= fibre.done;
      }
      if (!moved) fail("a barrier or shuffle that not all threads reach");
    }
    __tsan_acquire(&end_);
    running = nullptr;
  }

  STAND_IN_UNSEEN void wait(Barrier& barrier, int count, bool orders) {
    Fibre& fibre = fibres_[current_];
    const unsigned generation = barrier.generation;
    if (orders) __tsan_release(&barrier.order[generation % 2]);
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      ++barrier.generation;
    } else {
      fibre.awaited = &barrier;
      fibre.generation = generation;
      to(host_);
      swapcontext(&fibre.context, &home_);
    }
    if (orders) __tsan_acquire(&barrier.order[generation % 2]);
  }

  STAND_IN_UNSEEN void meet() { wait(all_, threads_, true); }

  // What the thread at `partner` hands over; the threads of the mask do so together.
  STAND_IN_UNSEEN std::uint64_t exchange(unsigned mask, std::uint64_t value, int partner) {
    const int lane = current_ % kWarp, first = current_ - lane;
    if (!(mask >> lane & 1) || !(mask >> partner & 1)) fail("a shuffle with a thread that its mask leaves out");
    Barrier& barrier = warps_[first + __builtin_ctz(mask)];
    std::uint64_t* const slots = exchanged_[barrier.generation % 2].get();
    slots[current_] = value;
    wait(barrier, __builtin_popcount(mask), false);
    return slots[first + partner];
  }

  STAND_IN_UNSEEN void fence() {
    Fibre& fibre = fibres_[current_];
    fibre.fenced = true;
    if (fibre.unfenced != nullptr) __tsan_acquire(fibre.unfenced);
  }

  STAND_IN_UNSEEN void before_atomic(void* address) {
    if (fibres_[current_].fenced) __tsan_release(address);
    fibres_[current_].unfenced = address;
  }

  static inline thread_local Block* running = nullptr;

 private:
  static constexpr std::size_t kStack = 1 << 17;

  STAND_IN_UNSEEN static void prepare(Fibre& fibre, char* stack) {
    fibre.done = false;
    fibre.awaited = nullptr;
    fibre.fenced = false;
    fibre.unfenced = nullptr;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = kStack;
    makecontext(&fibre.context, &Block::enter, 0);
  }

  STAND_IN_UNSEEN static void enter() {
    Block& block = *running;
    __tsan_acquire(&block.begin_);
    block.body_(block.argument_);
    __tsan_release(&block.end_);
    Fibre& fibre = block.fibres_[block.current_];
    fibre.done = true;
    block.to(block.host_);
    setcontext(&block.home_);
  }

  STAND_IN_UNSEEN void to([[maybe_unused]] void* tsan) {
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(tsan, __tsan_switch_to_fiber_no_sync);
#endif
  }

  int threads_;
  std::unique_ptr<Fibre[]> fibres_;
  std::unique_ptr<Barrier[]> warps_;
  std::unique_ptr<std::uint64_t[]> exchanged_[2];
  std::vector<int> order_;
  char* stacks_;
  ucontext_t home_;
  void* host_ = nullptr;
  Barrier all_;
  int current_ = 0;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  char begin_, end_;
};

inline Block& block() {
  if (Block::running == nullptr) fail("a kernel with barriers was launched without them");
  return *Block::running;
}

inline bool left_out([[maybe_unused]] const char* file, [[maybe_unused]] int line) {
#ifdef __SANITIZE_THREAD__
  const char* const name = std::getenv("STAND_IN_WITHOUT");
  if (name == nullptr) return false;
  const char* const slash = std::strrchr(file, '/');
  return std::string(slash == nullptr ? file : slash + 1) + ":" + std::to_string(line) == name;
#else
  return false;
#endif
}

inline void syncthreads(const char* file, int line) {
  if (!left_out(file, line)) block().meet();
}

inline void threadfence(const char* file, int line) {
  if (left_out(file, line)) return;
#ifndef __SANITIZE_THREAD__  // which knows no fences
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  block().fence();
}

// Blocks that run at the same time.
constexpr int kConcurrent = 3;

inline std::atomic<unsigned> launches{0};

template <typename... Parameters, std::size_t... k>
void launch_blocks(void (*kernel)(Parameters...), long long grid, int threads, void** parameters, std::index_sequence<k...>) {
  const auto body = [&] { kernel(*static_cast<Parameters*>(parameters[k])...); };
  using Body = decltype(body);
  const unsigned seed = launches.fetch_add(1);
  std::vector<long long> order(grid);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  // Relaxed, so that the blocks are not ordered by it.
  std::atomic<long long> next{std::min<long long>(grid, kConcurrent)};
  const auto work = [&](long long first) {
    Block block(threads);
    std::mt19937 random(seed + first + 1);
    gridDim = {static_cast<unsigned>(grid), 1, 1};
    for (long long at = first; at < grid; at = next.fetch_add(1, std::memory_order_relaxed)) {
      blockIdx = {static_cast<unsigned>(order[at]), 0, 0};
      block.run([](void* body) { (*static_cast<Body*>(body))(); }, const_cast<void*>(static_cast<const void*>(&body)), random);
    }
  };
  std::vector<std::thread> others;
  for (long long first = 1; first < std::min<long long>(grid, kConcurrent); ++first) others.emplace_back(work, first);
  work(0);
  for (auto& other : others) other.join();
}

template <typename... Parameters>
void launch_blocks(void (*kernel)(Parameters...), long long grid, int threads, void** parameters) {
  launch_blocks(kernel, grid, threads, parameters, std::index_sequence_for<Parameters...>());
}

}  // namespace stand_in

#define __shared__ static thread_local
#define __syncthreads() stand_in::syncthreads(__FILE__, __LINE__)
#define __threadfence() stand_in::threadfence(__FILE__, __LINE__)

inline double __shfl_xor_sync(unsigned mask, double value, int step, int width) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const int lane = threadIdx.x % stand_in::kWarp;
  const int partner = lane ^ step;
  bits = stand_in::block().exchange(mask, bits, partner / width == lane / width ? partner : lane);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Counts up to `last`, and then from 0 again.
inline unsigned atomicInc(unsigned* counter, unsigned last) {
  stand_in::block().before_atomic(counter);
  unsigned before = __atomic_load_n(counter, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(counter, &before, before >= last ? 0 : before + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

// A C function that launches a kernel with barriers; see STAND_IN_KERNEL.
#define STAND_IN_KERNEL_WITH_BARRIERS(name, ...) \
  extern "C" void name(long long grid, int block, void** parameters) { stand_in::launch_blocks(__VA_ARGS__, grid, block, parameters); }
