// Runs CUDA device code on a CPU: every thread of a block is a fiber, and every barrier or shuffle lets all others catch up.
// Enough for kernels whose threads pass the same barriers; atomics are plain additions, since fibers do not overlap.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(threads)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct Index {
  int64_t x;
};
inline Index threadIdx, blockIdx;
using std::exp;
using std::floor;
using std::llrint;
template <class A, class B>
auto min(A a, B b) {
  return a < b ? a : b;
}
template <class A, class B>
auto max(A a, B b) {
  return a > b ? a : b;
}
inline void atomicAdd(float* p, float x) { *p += x; }
inline void atomicAdd(double* p, double x) { *p += x; }
inline void atomicAdd(unsigned long long* p, unsigned long long x) { *p += x; }

namespace emulation {

struct Fiber {
  ucontext_t context{};
  std::vector<char> stack = std::vector<char>(1 << 17);
  bool done = false;
};
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline std::vector<double> exchange;

inline void yield() {
  const int64_t self = threadIdx.x;
  swapcontext(&fibers[self]->context, &scheduler);
}

inline void enter() {
  kernel();
  fibers[threadIdx.x]->done = true;
  yield();
}

template <class Kernel>
void launch(int64_t blocks, int threads, const Kernel& run) {
  kernel = run;
  exchange.resize(threads);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    fibers.clear();
    for (int t = 0; t < threads; ++t) {
      fibers.push_back(std::make_unique<Fiber>());
      auto& fiber = *fibers.back();
      getcontext(&fiber.context);
      fiber.context.uc_stack = {fiber.stack.data(), 0, fiber.stack.size()};
      makecontext(&fiber.context, enter, 0);
    }
    for (bool running = true; running;) {
      int finished = 0;
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
        swapcontext(&scheduler, &fibers[threadIdx.x]->context);
        finished += fibers[threadIdx.x]->done;
      }
      if (finished != 0 && finished != threads) throw std::runtime_error("threads passed different barriers");
      running = finished == 0;
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::yield(); }
inline void __syncwarp() { emulation::yield(); }
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  const int64_t self = threadIdx.x;
  emulation::exchange[self] = x;
  emulation::yield();
  const T other = static_cast<T>(emulation::exchange[self ^ mask]);
  emulation::yield();
  return other;
}
