// What a kernel is given: plain pointers and sizes, no PyTorch type.
#pragma once

#include <cstdint>

namespace detrex_ops {

enum class Dtype : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// CPU: torch's intra-op parallel_for behind a function pointer: body(begin, end, context) on disjoint ranges of [0, count).
using RangeBody = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t count, RangeBody body, void* context);

// All tensors are contiguous. "compute" is double beside float64 values and float beside all others.
struct Problem {
  Dtype dtype;
  int64_t batch, tokens, heads, channels, queries, levels, points;
  int64_t reference_size;         // 0: samples are locations, weights are normalised. 2, 4: the fused form.
  const int64_t* spatial_shapes;  // (levels, 2): height, width
  const void* value;              // (batch, tokens, heads, channels), dtype
  const void* reference;          // (batch, queries, levels, reference_size), compute; fused only
  const void* samples;            // (batch, queries, heads, levels, points, 2), compute: locations or offsets
  const void* weights;            // (batch, queries, heads, levels, points), compute: weights or logits
  void* output;                   // (batch, queries, heads * channels), dtype; forward only
  // Backward only. Each of the gradients may be null.
  const void* grad_output;  // as output
  void* grad_value;         // as value
  void* grad_samples;       // as samples
  void* grad_weights;       // as weights
  void* grad_reference;     // (batch, queries, heads, levels, reference_size): summed over the heads by the caller
  int64_t num_threads;       // CPU only, like parallel_for
  ParallelFor parallel_for;
};

}  // namespace detrex_ops
