// What one core does at best: vector loads from a working set that is read again and again, and fused multiply-adds.
// Prints GB/s for each size in bytes that is asked for, then GFLOP/s in float32. Built by operator_limits.py.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));
constexpr int kChains = 12;  // enough to hide the latency of an addition, few enough for the registers

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of several runs of `body`, which reports how much it did, per second.
template <class Body>
double best_rate(const Body& body) {
  double best = 0;
  for (int run = 0; run < 7; ++run) {
    const double begin = seconds(), amount = body();
    best = std::max(best, amount / (seconds() - begin));
  }
  return best;
}

// Tells the compiler that a vector may have changed, so that it neither drops nor merges what computes it.
inline __attribute__((always_inline)) void touch(Vector& vector) { asm volatile("" : "+x"(vector)); }

double read(const std::vector<Vector>& data, int64_t repeats) {
  Vector sums[kChains] = {};
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) touch(sums[c]);
  const int64_t count = data.size() / kChains * kChains;
  for (int64_t k = 0; k < repeats; ++k) {
    const Vector* source = data.data();
    asm volatile("" : "+r"(source) : : "memory");  // so that each round reads again
    for (int64_t i = 0; i < count; i += kChains) {
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) sums[c] += source[i + c];
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) touch(sums[c]);
  return static_cast<double>(repeats) * count * sizeof(Vector);
}

double multiply_add(int64_t rounds) {
  Vector sums[kChains] = {}, factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
  touch(factor);
  touch(term);
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) touch(sums[c]);
  for (int64_t k = 0; k < rounds; ++k) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + term;
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) touch(sums[c]);
  return static_cast<double>(rounds) * kChains * kLanes * 2;
}

int main(int count, char** arguments) {
  for (int k = 1; k < count; ++k) {
    const int64_t bytes = std::atoll(arguments[k]);
    const std::vector<Vector> data(bytes / sizeof(Vector));
    const int64_t repeats = std::max<int64_t>(1, (int64_t{1} << 31) / bytes);
    std::printf("%.1f\n", best_rate([&] { return read(data, repeats); }) / 1e9);
  }
  std::printf("%.1f\n", best_rate([] { return multiply_add(int64_t{1} << 24); }) / 1e9);
}
