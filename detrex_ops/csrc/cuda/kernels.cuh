// The CUDA kernels. Device code only, so that a test can run it on a CPU through an emulation of the few built-ins used.
//
// A block serves neighbouring queries of one head of one image, for the sake of the L1 cache. A group of lanes serves one
// query; each lane owns 16 bytes of channels (or single channels, strided, for unusual channel counts). The samples of all
// queries of a block are prepared once, in shared memory, kChunk at a time.
#pragma once

#include <cstdint>

namespace detrex_ops::cuda {

constexpr int kMaxLevels = 8;
constexpr int kMaxThreads = 256;
constexpr int kMaxQueries = 64;  // of a block: their samples have to fit into 48 KB
constexpr int kChunk = 16;

struct Geometry {
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

template <class Compute>
struct Call {
  int64_t batch, tokens, heads, queries, query_blocks;
  int channels, levels, points;
  Geometry geometry;
  const void* value;
  const Compute* reference;
  const Compute* samples;
  const Compute* weights;
  void* output;
  const void* grad_output;
  void* grad_value;  // float, double, or int64_t where the sums are to be deterministic
  Compute* grad_samples;
  Compute* grad_weights;
  Compute* grad_reference;  // may be null
  const Compute* scale;     // deterministic only: steps of the fixed-point sums per unit, on the device
};

// kLanes lanes of kVector channels each serve one query; kVector == 1 strides over any number of channels.
template <class T, class C, int channels>
struct Shape {
  using Element = T;
  using Compute = C;
  static constexpr int kVector = channels == 0 ? 1 : 16 / static_cast<int>(sizeof(T));
  static constexpr int kLanes = channels == 0 ? 32 : channels / kVector;
  static constexpr int kQueries = kMaxThreads / kLanes < kMaxQueries ? kMaxThreads / kLanes : kMaxQueries;
  static constexpr int kThreads = kQueries * kLanes;
  static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0, "a group is a power of two within a warp");
};

template <class Compute>
struct alignas(16) Sample {
  Compute fraction_x, fraction_y, weight;
  int32_t row;      // of the top left corner
  int32_t corners;  // bit c: corner c is inside
  int32_t level;
};

// kVector elements as one 16-byte load, widened.
template <int vector, class Compute, class T>
__device__ inline void load_vector(const T* source, Compute (&target)[vector]) {
  if constexpr (vector == 1) {
    target[0] = static_cast<Compute>(*source);
  } else {
    static_assert(vector * sizeof(T) == 16);
    alignas(16) T elements[vector];
    *reinterpret_cast<uint4*>(elements) = *reinterpret_cast<const uint4*>(source);
#pragma unroll
    for (int j = 0; j < vector; ++j) target[j] = static_cast<Compute>(elements[j]);
  }
}

template <int vector, class Compute, class T>
__device__ inline void store_vector(T* target, const Compute (&source)[vector]) {
  if constexpr (vector == 1) {
    *target = static_cast<T>(source[0]);
  } else {
    alignas(16) T elements[vector];
#pragma unroll
    for (int j = 0; j < vector; ++j) elements[j] = static_cast<T>(source[j]);
    *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(elements);
  }
}

template <int lanes, class Compute>
__device__ inline Compute group_sum(Compute x) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

template <int lanes, class Compute>
__device__ inline Compute group_max(Compute x) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    const Compute other = __shfl_xor_sync(0xffffffffu, x, mask);
    x = x > other || x != x ? x : other;
  }
  return x;
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// Adds to the value's gradient. Fixed-point sums do not depend on the order of the additions.
template <bool deterministic, int vector, class Compute>
__device__ inline void add_vector(void* target, int64_t offset, const Compute (&source)[vector], Compute factor,
                                  Compute scale) {
  if constexpr (deterministic) {
    auto* sums = static_cast<unsigned long long*>(target) + offset;
#pragma unroll
    for (int j = 0; j < vector; ++j) {
      atomicAdd(sums + j, static_cast<unsigned long long>(llrint(static_cast<double>(source[j] * factor) * scale)));
    }
  } else {
    auto* sums = static_cast<Compute*>(target) + offset;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (vector % 4 == 0 && sizeof(Compute) == 4) {
#pragma unroll
      for (int j = 0; j < vector; j += 4) {
        atomicAdd(reinterpret_cast<float4*>(sums + j), make_float4(source[j] * factor, source[j + 1] * factor,
                                                                   source[j + 2] * factor, source[j + 3] * factor));
      }
      return;
    }
#endif
#pragma unroll
    for (int j = 0; j < vector; ++j) atomicAdd(sums + j, source[j] * factor);
  }
}

struct BlockPosition {
  int64_t b, n, first_query;
};

template <class S>
__device__ inline BlockPosition block_position(const Call<typename S::Compute>& call) {
  const int64_t head = blockIdx.x / call.query_blocks;
  return {head / call.heads, head % call.heads, (blockIdx.x % call.query_blocks) * S::kQueries};
}

// Softmax statistics of a query's logits, by the lanes of its group: maximum and reciprocal of the sum.
template <class S>
__device__ inline void softmax_statistics(const Call<typename S::Compute>& call, const typename S::Compute* logits,
                                          bool active, int lane, typename S::Compute* statistics) {
  using Compute = typename S::Compute;
  const int count = call.levels * call.points;
  Compute maximum = -INFINITY, sum = 0;
  for (int k = lane; k < count; k += S::kLanes) {
    const Compute logit = active ? logits[k] : Compute(0);
    maximum = logit > maximum || logit != logit ? logit : maximum;
  }
  maximum = group_max<S::kLanes>(maximum);
  for (int k = lane; k < count; k += S::kLanes) sum += exponential((active ? logits[k] : Compute(0)) - maximum);
  sum = group_sum<S::kLanes>(sum);
  if (lane == 0) {
    statistics[0] = maximum;
    statistics[1] = Compute(1) / sum;
  }
}

template <int reference_size, class Compute>
__device__ inline Sample<Compute> prepare(const Call<Compute>& call, int64_t query, int64_t query_head, int k,
                                          const Compute* statistics) {
  const int level = k / call.points;
  const int64_t index = query_head * (call.levels * call.points) + k;
  const Compute width = call.geometry.width[level], height = call.geometry.height[level];
  Compute x = call.samples[2 * index], y = call.samples[2 * index + 1], weight = call.weights[index];
  if constexpr (reference_size == 0) {
    x = x * width - Compute(0.5);
    y = y * height - Compute(0.5);
  } else {
    const Compute* point = call.reference + (query * call.levels + level) * reference_size;
    if constexpr (reference_size == 2) {
      x += point[0] * width - Compute(0.5);
      y += point[1] * height - Compute(0.5);
    } else {
      const Compute unit = Compute(0.5) / call.points;
      x = (point[0] + x * (point[2] * unit)) * width - Compute(0.5);
      y = (point[1] + y * (point[3] * unit)) * height - Compute(0.5);
    }
    weight = exponential(weight - statistics[0]) * statistics[1];
  }
  Sample<Compute> sample;
  sample.weight = weight;
  sample.level = level;
  const bool inside = x >= Compute(-1) && x < width && y >= Compute(-1) && y < height;
  const Compute left = floor(x), top = floor(y);
  // Outside: 0 for a finite position, NaN for any other, so that the latter shows in the output.
  sample.fraction_x = inside ? x - left : x - x;
  sample.fraction_y = inside ? y - top : y - y;
  const int column = inside ? static_cast<int>(left) : 0, line = inside ? static_cast<int>(top) : 0;
  const bool has_left = inside && column >= 0, has_right = inside && column + 1 < call.geometry.width[level];
  const bool has_top = line >= 0, has_bottom = line + 1 < call.geometry.height[level];
  sample.corners = (has_left && has_top) | (has_right && has_top) << 1 | (has_left && has_bottom) << 2 |
                   (has_right && has_bottom) << 3;
  sample.row = call.geometry.start[level] + line * call.geometry.width[level] + column;
  return sample;
}

// What both kernels do first: the samples [first, first + kChunk) of the block's queries, by all its threads.
template <class S, int reference_size>
__device__ inline void stage(const Call<typename S::Compute>& call, const BlockPosition& position, int first,
                             const typename S::Compute (*statistics)[2],
                             Sample<typename S::Compute> (*samples)[kChunk]) {
  const int count = call.levels * call.points;
  for (int item = threadIdx.x; item < S::kQueries * kChunk; item += S::kThreads) {
    const int slot = item / kChunk, k = first + item % kChunk;
    const int64_t q = position.first_query + slot;
    if (q >= call.queries || k >= count) continue;
    const int64_t query = position.b * call.queries + q;
    samples[slot][item % kChunk] =
        prepare<reference_size>(call, query, query * call.heads + position.n, k, statistics[slot]);
  }
}

template <class Compute>
__device__ inline void corner_weights(const Sample<Compute>& sample, Compute (&weights)[4]) {
  const Compute right = sample.fraction_x, left = Compute(1) - right;
  const Compute bottom = sample.fraction_y, top = Compute(1) - bottom;
  weights[0] = left * top;
  weights[1] = right * top;
  weights[2] = left * bottom;
  weights[3] = right * bottom;
}

template <class S, int reference_size>
__global__ void __launch_bounds__(S::kThreads) forward_kernel(const __grid_constant__ Call<typename S::Compute> call) {
  using T = typename S::Element;
  using Compute = typename S::Compute;
  constexpr int kVector = S::kVector;
  __shared__ Sample<Compute> samples[S::kQueries][kChunk];
  __shared__ Compute statistics[S::kQueries][2];
  const BlockPosition position = block_position<S>(call);
  const int slot = threadIdx.x / S::kLanes, lane = threadIdx.x % S::kLanes;
  const int64_t q = position.first_query + slot;
  const bool active = q < call.queries;
  const int count = call.levels * call.points;
  const int64_t query_head = ((position.b * call.queries + (active ? q : 0)) * call.heads + position.n);
  if constexpr (reference_size != 0) {
    softmax_statistics<S>(call, call.weights + query_head * count, active, lane, statistics[slot]);
    __syncthreads();
  }
  const int64_t pitch = call.heads * call.channels;
  const T* value = static_cast<const T*>(call.value) + position.b * call.tokens * pitch + position.n * call.channels;
  // One pass where a lane's vector covers its channels; strided passes otherwise.
  for (int channel = lane * kVector; channel < (kVector == 1 ? (call.channels + 31) / 32 * 32 : call.channels);
       channel += S::kLanes * kVector) {
    Compute total[kVector] = {};
    for (int first = 0; first < count; first += kChunk) {
      __syncthreads();
      stage<S, reference_size>(call, position, first, statistics, samples);
      __syncthreads();
      const int chunk = active && channel < call.channels ? min(kChunk, count - first) : 0;
#pragma unroll 4
      for (int k = 0; k < chunk; ++k) {
        const Sample<Compute> sample = samples[slot][k];
        const int64_t width = call.geometry.width[sample.level];
        const T* corner = value + sample.row * pitch + channel;
        Compute weights[4], rows[4][kVector];
        corner_weights(sample, weights);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) rows[c][j] = 0;
          if (sample.corners >> c & 1) load_vector<kVector>(corner + ((c & 1) + (c >> 1) * width) * pitch, rows[c]);
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) total[j] += rows[c][j] * (weights[c] * sample.weight);
        }
      }
    }
    if (active && channel < call.channels) {
      store_vector<kVector>(static_cast<T*>(call.output) + query_head * call.channels + channel, total);
    }
  }
}

// Gradients of weight and position of one sample, in cells, from its corners' dot products.
template <class Compute>
__device__ inline void position_gradients(const Sample<Compute>& sample, const Compute (&dots)[4], Compute& sampled,
                                          Compute& x, Compute& y) {
  const Compute top = dots[0] + (dots[1] - dots[0]) * sample.fraction_x;
  const Compute bottom = dots[2] + (dots[3] - dots[2]) * sample.fraction_x;
  sampled = top + (bottom - top) * sample.fraction_y;
  x = ((dots[1] - dots[0]) * (Compute(1) - sample.fraction_y) + (dots[3] - dots[2]) * sample.fraction_y) * sample.weight;
  y = (bottom - top) * sample.weight;
}

template <int reference_size, class Compute>
__device__ inline void write_position_gradients(const Call<Compute>& call, int64_t query, int64_t query_head, int k,
                                                int level, Compute x, Compute y) {
  const Compute width = call.geometry.width[level], height = call.geometry.height[level];
  const int64_t index = query_head * (call.levels * call.points) + k;
  Compute to_x = width, to_y = height;
  if constexpr (reference_size == 2) to_x = to_y = Compute(1);
  if constexpr (reference_size == 4) {
    const Compute* box = call.reference + (query * call.levels + level) * 4;
    to_x *= box[2] * (Compute(0.5) / call.points);
    to_y *= box[3] * (Compute(0.5) / call.points);
  }
  call.grad_samples[2 * index] = x * to_x;
  call.grad_samples[2 * index + 1] = y * to_y;
  if constexpr (reference_size != 0) {
    if (call.grad_reference == nullptr) return;
    // One lane writes all samples of a query and head, in order: no atomics.
    Compute* target = call.grad_reference + (query_head * call.levels + level) * reference_size;
    target[0] += x * width;
    target[1] += y * height;
    if constexpr (reference_size == 4) {
      const Compute unit = Compute(0.5) / call.points;
      target[2] += x * width * call.samples[2 * index] * unit;
      target[3] += y * height * call.samples[2 * index + 1] * unit;
    }
  }
}

// grad_value and grad_reference come zeroed.
template <class S, int reference_size, bool deterministic>
__global__ void __launch_bounds__(S::kThreads) backward_kernel(const __grid_constant__ Call<typename S::Compute> call) {
  using T = typename S::Element;
  using Compute = typename S::Compute;
  constexpr int kVector = S::kVector;
  __shared__ Sample<Compute> samples[S::kQueries][kChunk];
  __shared__ Compute statistics[S::kQueries][2];
  const BlockPosition position = block_position<S>(call);
  const int slot = threadIdx.x / S::kLanes, lane = threadIdx.x % S::kLanes;
  const int64_t q = position.first_query + slot;
  const bool active = q < call.queries;
  const int count = call.levels * call.points;
  const int64_t query = position.b * call.queries + (active ? q : 0), query_head = query * call.heads + position.n;
  if constexpr (reference_size != 0) {
    softmax_statistics<S>(call, call.weights + query_head * count, active, lane, statistics[slot]);
    __syncthreads();
  }
  const int64_t pitch = call.heads * call.channels;
  const int64_t origin = position.b * call.tokens * pitch + position.n * call.channels;
  const T* value = static_cast<const T*>(call.value) + origin;
  const T* grad_row = static_cast<const T*>(call.grad_output) + query_head * call.channels;
  const Compute scale = deterministic ? *call.scale : Compute(1);
  Compute expected = 0;  // of the weight's gradient under the softmax
  Compute grad[kVector];
  if constexpr (kVector > 1) load_vector<kVector>(grad_row + lane * kVector, grad);
  for (int first = 0; first < count; first += kChunk) {
    __syncthreads();
    stage<S, reference_size>(call, position, first, statistics, samples);
    __syncthreads();
    const int chunk = min(kChunk, count - first);
#pragma unroll 2
    for (int k = 0; k < chunk; ++k) {
      // Lanes beyond the queries take part in the shuffles, with nothing to read.
      const Sample<Compute> sample = samples[active ? slot : 0][k];
      const int corners = active ? sample.corners : 0;
      const int64_t width = call.geometry.width[sample.level];
      Compute weights[4], dots[4] = {};
      corner_weights(sample, weights);
      for (int channel = lane * kVector; channel < call.channels; channel += S::kLanes * kVector) {
        if constexpr (kVector == 1) load_vector<kVector>(grad_row + channel, grad);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (!(corners >> c & 1)) continue;
          const int64_t offset = (sample.row + (c & 1) + (c >> 1) * width) * pitch + channel;
          Compute row[kVector];
          load_vector<kVector>(value + offset, row);
#pragma unroll
          for (int j = 0; j < kVector; ++j) dots[c] += row[j] * grad[j];
          add_vector<deterministic>(call.grad_value, origin + offset, grad, weights[c] * sample.weight, scale);
        }
        if constexpr (kVector > 1) break;
      }
      Compute sampled, x, y;
      position_gradients(sample, dots, sampled, x, y);
      sampled = group_sum<S::kLanes>(sampled);
      x = group_sum<S::kLanes>(x);
      y = group_sum<S::kLanes>(y);
      expected += sampled * sample.weight;
      if (active && lane == 0) {
        write_position_gradients<reference_size>(call, query, query_head, first + k, sample.level, x, y);
        call.grad_weights[query_head * count + first + k] = sampled;
      }
    }
  }
  if constexpr (reference_size != 0) {  // through the softmax
    __syncwarp();
    for (int k = lane; active && k < count; k += S::kLanes) {
      const int64_t index = query_head * count + k;
      const Compute weight = exponential(call.weights[index] - statistics[slot][0]) * statistics[slot][1];
      call.grad_weights[index] = weight * (call.grad_weights[index] - expected);
    }
  }
}

}  // namespace detrex_ops::cuda
