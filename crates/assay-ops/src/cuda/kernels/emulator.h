// Runs kernels on a CPU, one block at a time, a block's threads as fibres that switch at barriers and shuffles.
//
// It proves index arithmetic, barriers and sums, not speed or memory models. A barrier that some thread never reaches is
// reported. Fibres run in ascending or descending order of threads: code that misses a barrier gives different results.
#pragma once

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__ static thread_local
#define __launch_bounds__(THREADS)

struct dim3 {
  unsigned int x, y, z;
};

namespace emulator {

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};

// A meeting point of a fixed number of threads.
struct Barrier {
  unsigned int expected = 0, arrived = 0, generation = 0;
};

struct Block {
  std::vector<Fibre> fibres;
  std::vector<Barrier> warps;
  std::vector<std::vector<double>> slots;
  Barrier all;
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
  unsigned int current = 0;
  bool progress = false;
};

inline thread_local Block* block = nullptr;
inline thread_local dim3 block_index, block_size, grid_size;

inline void switch_out() {
  Block* b = block;
  swapcontext(&b->fibres[b->current].context, &b->scheduler);
}

inline void meet(Barrier& barrier) {
  unsigned int generation = barrier.generation;
  block->progress = true;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    barrier.generation++;
    return;
  }
  while (barrier.generation == generation) switch_out();
}

inline void fibre_main() {
  (*block->body)();
  block->fibres[block->current].done = true;
  block->progress = true;
  switch_out();
}

// Runs one block; false when threads wait at a barrier that the others never reach.
inline bool run_block(unsigned int threads, bool descending, const std::function<void()>& body) {
  static const size_t stack_bytes = 1 << 17;
  static thread_local Block b;
  block = &b;
  if (b.fibres.size() < threads) b.fibres.resize(threads);
  b.warps.assign((threads + 31) / 32, Barrier());
  b.slots.assign(b.warps.size(), std::vector<double>(32));
  for (unsigned int w = 0; w < b.warps.size(); w++) b.warps[w].expected = threads - 32 * w < 32 ? threads - 32 * w : 32;
  b.all = Barrier();
  b.all.expected = threads;
  b.body = &body;
  for (unsigned int t = 0; t < threads; t++) {
    Fibre& fibre = b.fibres[t];
    fibre.done = false;
    if (fibre.stack.empty()) fibre.stack.resize(stack_bytes);
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
  }
  for (bool alive = true; alive;) {
    alive = false;
    b.progress = false;
    for (unsigned int i = 0; i < threads; i++) {
      unsigned int t = descending ? threads - 1 - i : i;
      if (b.fibres[t].done) continue;
      b.current = t;
      swapcontext(&b.scheduler, &b.fibres[t].context);
      alive = alive || !b.fibres[t].done;
    }
    if (alive && !b.progress) return false;
  }
  return true;
}

struct ThreadIndex {
  struct Coordinate {
    operator unsigned int() const { return block->current; }
  } x;
};

struct BlockIndex {
  struct X {
    operator unsigned int() const { return block_index.x; }
  } x;
  struct Y {
    operator unsigned int() const { return block_index.y; }
  } y;
  struct Z {
    operator unsigned int() const { return block_index.z; }
  } z;
};

struct BlockSize {
  struct X {
    operator unsigned int() const { return block_size.x; }
  } x;
};

struct GridSize {
  struct X {
    operator unsigned int() const { return grid_size.x; }
  } x;
};

using Kernel = std::function<void(void**)>;

inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

template <class... A, size_t... I>
Kernel unpacked(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void** arguments) { kernel(*static_cast<A*>(arguments[I])...); };
}

struct Registration {
  template <class... A>
  Registration(const char* name, void (*kernel)(A...)) {
    kernels()[name] = unpacked(kernel, std::index_sequence_for<A...>());
  }
};

}  // namespace emulator

#define REGISTER(NAME) static emulator::Registration registration_of_##NAME(#NAME, NAME);

static const emulator::ThreadIndex threadIdx;
static const emulator::BlockIndex blockIdx;
static const emulator::BlockSize blockDim;
static const emulator::GridSize gridDim;

inline void __syncthreads() { emulator::meet(emulator::block->all); }

template <class V>
inline V __shfl_xor_sync(unsigned int, V v, int mask) {
  using emulator::block;
  unsigned int warp = block->current / 32, lane = block->current % 32;
  memcpy(&block->slots[warp][lane], &v, sizeof(V));
  emulator::meet(block->warps[warp]);
  V other;
  memcpy(&other, &block->slots[warp][lane ^ (unsigned int)mask], sizeof(V));
  emulator::meet(block->warps[warp]);
  return other;
}

inline float __uint_as_float(unsigned int bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

inline unsigned int __float_as_uint(float v) {
  unsigned int bits;
  memcpy(&bits, &v, 4);
  return bits;
}

// 0: done; 1: no kernel of that name; 2: a barrier was not reached by all threads.
extern "C" int assay_emulate(const char* name, const unsigned int* grid, unsigned int threads, void** arguments,
                             int descending) {
  auto found = emulator::kernels().find(name);
  if (found == emulator::kernels().end()) return 1;
  std::function<void()> body = [&] { found->second(arguments); };
  emulator::block_size = {threads, 1, 1};
  emulator::grid_size = {grid[0], grid[1], grid[2]};
  for (unsigned int z = 0; z < grid[2]; z++)
    for (unsigned int y = 0; y < grid[1]; y++)
      for (unsigned int x = 0; x < grid[0]; x++) {
        emulator::block_index = {x, y, z};
        if (!emulator::run_block(threads, descending != 0, body)) return 2;
      }
  return 0;
}
