// The CUDA kernels. Device code only, so that a test can run it on a CPU by an emulation of the few built-ins used.
//
// A block serves neighbouring queries of one head of one image, for the sake of the L1 cache. A group of lanes serves
// one query; each lane owns 16 bytes of channels (or single channels, strided, for unusual channel counts). The lanes
// of a warp share out the samples of its queries, kChunk of each at a time: each prepares whole samples and leaves in
// shared memory what all lanes of a query need of them. Warps do not wait for each other.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace detrex_ops::cuda {

constexpr int kMaxLevels = 8;
constexpr int kMaxThreads = 256;
constexpr int kMaxQueries = 64;  // of a block: their samples have to fit into 48 KB
constexpr int kChunk = 8;
constexpr int kWarp = 32;
constexpr int kInFlight = 2;  // samples of a query that are read at a time

struct Geometry {
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

template <class Compute>
struct Call {
  int64_t batch, tokens, queries, query_blocks;
  int64_t point_reciprocal;  // 2^32 / points, rounded up
  int heads, channels, levels, points;
  int reference_size;  // 2 or 4 in the fused form; a branch that all threads take alike, so no kernel of its own
  int row_step;  // from a token to the next, in vectors of a lane
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
  static constexpr int kLanes = channels == 0 ? kWarp : channels / kVector;
  static constexpr int kQueries = kMaxThreads / kLanes < kMaxQueries ? kMaxThreads / kLanes : kMaxQueries;
  static constexpr int kThreads = kQueries * kLanes;
  static constexpr int kWarpQueries = kWarp / kLanes;
  using Offset = std::conditional_t<kVector == 1, int64_t, int32_t>;  // within an image, in vectors
  static_assert(kLanes >= 2 && kLanes <= kWarp && (kLanes & (kLanes - 1)) == 0, "a power of two within a warp");
  static_assert(kThreads % kWarp == 0, "whole warps");
};

// One value for each corner of a sample: top left, top right, bottom left, bottom right. As one or two 16-byte words.
template <class Value>
struct alignas(16) Corners {
  Value at[4];
};

// As a copy in registers by loads of 16 bytes, which the compiler would otherwise split up and spread.
template <class Value>
__device__ inline Corners<Value> in_registers(const Corners<Value>& source) {
  constexpr int words = sizeof(source) / sizeof(uint4);
  uint4 copy[words];
#pragma unroll
  for (int j = 0; j < words; ++j) copy[j] = reinterpret_cast<const uint4*>(&source)[j];
  Corners<Value> target;
  memcpy(&target, copy, sizeof(target));
  return target;
}

// The samples of a block's queries. One sample of padding puts the queries of a warp into different banks.
template <class S>
struct SharedSamples {
  Corners<typename S::Compute> weight[S::kQueries][kChunk + 1];  // bilinear times attention
  Corners<typename S::Offset> offset[S::kQueries][kChunk + 1];   // from the head's first row; -1: outside
};

template <class S>
struct Sample {
  typename S::Compute fraction_x, fraction_y, weight;
  Corners<typename S::Offset> offset;
};

// The place of a thread: its query and head, and its lane among those that share them.
template <class S>
struct Place {
  int warp_slot, slot, lane;  // the warp's first query and this thread's, within the block
  int64_t b, n, first_query;  // first_query: the block's
  bool active;                // false beyond the queries: then only a helper of the other lanes
  int64_t query, query_head;  // over the batch

  __device__ explicit Place(const Call<typename S::Compute>& call) {
    const int64_t head = blockIdx.x / call.query_blocks;
    b = head / call.heads;
    n = head % call.heads;
    first_query = (blockIdx.x % call.query_blocks) * S::kQueries;
    slot = threadIdx.x / S::kLanes;
    lane = threadIdx.x % S::kLanes;
    warp_slot = threadIdx.x / kWarp * S::kWarpQueries;
    active = first_query + slot < call.queries;
    query = b * call.queries + (active ? first_query + slot : 0);
    query_head = query * call.heads + n;
  }

  // In elements, of this image's and head's first row.
  __device__ int64_t origin(const Call<typename S::Compute>& call) const {
    return (b * call.tokens * call.heads + n) * call.channels;
  }
};

// The channels of one lane as they lie in memory.
template <class T, int vector>
using Packed = std::conditional_t<vector == 1, T, uint4>;

// Whether a type is the upper half of a float, so that a shift or a mask widens it; specialised beside the type.
template <class T>
inline constexpr bool kIsUpperHalf = false;

template <int vector, class Compute, class T>
__device__ inline void unpack(const Packed<T, vector>& source, Compute (&target)[vector]) {
  if constexpr (kIsUpperHalf<T> && vector > 1) {
    const unsigned words[] = {source.x, source.y, source.z, source.w};
#pragma unroll
    for (int j = 0; j < vector; ++j) {
      const unsigned bits = j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000u;
      memcpy(&target[j], &bits, sizeof(bits));
    }
  } else {
    alignas(16) T elements[vector];
    static_assert(sizeof(elements) == sizeof(source));
    memcpy(elements, &source, sizeof(source));
#pragma unroll
    for (int j = 0; j < vector; ++j) target[j] = static_cast<Compute>(elements[j]);
  }
}

template <int vector, class Compute, class T>
__device__ inline void load_vector(const T* source, Compute (&target)[vector]) {
  unpack<vector, Compute, T>(*reinterpret_cast<const Packed<T, vector>*>(source), target);
}

template <int vector, class Compute, class T>
__device__ inline void store_vector(T* target, const Compute (&source)[vector]) {
  alignas(16) T elements[vector];
#pragma unroll
  for (int j = 0; j < vector; ++j) elements[j] = static_cast<T>(source[j]);
  *reinterpret_cast<Packed<T, vector>*>(target) = *reinterpret_cast<const Packed<T, vector>*>(elements);
}

// What lies at a sample's corners, zeros outside.
template <class S>
__device__ inline void load_corners(const typename S::Element* base, const Corners<typename S::Offset>& offset,
                                    Packed<typename S::Element, S::kVector> (&packed)[4]) {
  const auto* rows = reinterpret_cast<const Packed<typename S::Element, S::kVector>*>(base);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    packed[c] = Packed<typename S::Element, S::kVector>{};
    if (offset.at[c] >= 0) packed[c] = rows[offset.at[c]];
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

// Sums of four values over a group. Lanes trade values for partial sums, so that one half of the lanes goes on with one
// half of the values: four shuffles for eight lanes, where a sum of each value on each lane would take twelve.
template <int lanes, class Compute>
__device__ inline void sum_corners(const Compute (&values)[4], int lane, Corners<Compute>& target) {
  const auto trade = [](Compute low, Compute high, bool keep_high, int mask) {
    return (keep_high ? high : low) + __shfl_xor_sync(0xffffffffu, keep_high ? low : high, mask);
  };
  Compute top = trade(values[0], values[1], lane & 1, 1), bottom = trade(values[2], values[3], lane & 1, 1);
  if constexpr (lanes == 2) {
    target.at[lane] = top;
    target.at[2 + lane] = bottom;
  } else {
    Compute sum = trade(top, bottom, lane & 2, 2);
#pragma unroll
    for (int mask = 4; mask < lanes; mask *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (lane < 4) target.at[lane] = sum;
  }
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// Adds to the value's gradient. Fixed-point sums do not depend on the order of the additions.
template <int vector, class Sum, class Compute>
__device__ inline void add_vector(Sum* sums, const Compute (&source)[vector], Compute factor, Compute scale) {
  if constexpr (std::is_same_v<Sum, unsigned long long>) {
#pragma unroll
    for (int j = 0; j < vector; ++j) {
      atomicAdd(sums + j, static_cast<Sum>(llrint(static_cast<double>(source[j] * factor) * scale)));
    }
  } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (vector % 4 == 0 && sizeof(Compute) == 4) {
#pragma unroll
      for (int j = 0; j < vector; j += 4) {
        atomicAdd(reinterpret_cast<float4*>(sums + j), make_float4(source[j] * factor, source[j + 1] * factor,
                                                                   source[j + 2] * factor, source[j + 3] * factor));
      }
    } else
#endif
    {
#pragma unroll
      for (int j = 0; j < vector; ++j) atomicAdd(sums + j, source[j] * factor);
    }
  }
}

// Softmax statistics of a query's logits, by the lanes of its group: maximum and reciprocal of the sum.
template <class S>
__device__ inline void softmax_statistics(const Call<typename S::Compute>& call, const Place<S>& place,
                                          typename S::Compute* statistics) {
  using Compute = typename S::Compute;
  const int count = call.levels * call.points;
  const Compute* logits = call.weights + place.query_head * count;
  Compute maximum = -INFINITY, sum = 0;
  for (int k = place.lane; k < count; k += S::kLanes) {
    const Compute logit = logits[k];
    maximum = logit > maximum || logit != logit ? logit : maximum;
  }
  maximum = group_max<S::kLanes>(maximum);
  for (int k = place.lane; k < count; k += S::kLanes) sum += exponential(logits[k] - maximum);
  sum = group_sum<S::kLanes>(sum);
  if (place.lane == 0) {
    statistics[0] = maximum;
    statistics[1] = Compute(1) / sum;
  }
  __syncwarp();
}

template <class Compute>
__device__ inline int level_of(const Call<Compute>& call, int k) {
  return static_cast<int>(k * call.point_reciprocal >> 32);
}

// Sample k of a query and head.
template <class S, bool fused>
__device__ inline Sample<S> prepare(const Call<typename S::Compute>& call, int64_t query, int64_t query_head, int k,
                                    const typename S::Compute* statistics) {
  using Compute = typename S::Compute;
  const int level = level_of(call, k);
  const int64_t index = query_head * (call.levels * call.points) + k;
  const int columns = call.geometry.width[level], lines = call.geometry.height[level];
  const Compute width = columns, height = lines;
  Compute x = call.samples[2 * index], y = call.samples[2 * index + 1];
  Sample<S> sample;
  sample.weight = call.weights[index];
  if constexpr (!fused) {
    x = x * width - Compute(0.5);
    y = y * height - Compute(0.5);
  } else {
    const Compute* point = call.reference + (query * call.levels + level) * call.reference_size;
    if (call.reference_size == 2) {
      x += point[0] * width - Compute(0.5);
      y += point[1] * height - Compute(0.5);
    } else {
      const Compute unit = Compute(0.5) / call.points;
      x = (point[0] + x * (point[2] * unit)) * width - Compute(0.5);
      y = (point[1] + y * (point[3] * unit)) * height - Compute(0.5);
    }
    sample.weight = exponential(sample.weight - statistics[0]) * statistics[1];
  }
  const bool inside = x >= Compute(-1) && x < width && y >= Compute(-1) && y < height;
  const int column = inside ? static_cast<int>(floor(x)) : 0, line = inside ? static_cast<int>(floor(y)) : 0;
  // Outside: 0 for a finite position, NaN for any other, so that the latter shows in the output.
  sample.fraction_x = inside ? x - static_cast<Compute>(column) : x - x;
  sample.fraction_y = inside ? y - static_cast<Compute>(line) : y - y;
  const bool left = inside && column >= 0, right = inside && column + 1 < columns;
  const bool top = line >= 0, bottom = line + 1 < lines;
  using Offset = typename S::Offset;
  const Offset step = call.row_step, stride = columns * step;
  const Offset offset = (call.geometry.start[level] + line * columns + column) * step;
  sample.offset = {left && top ? offset : -1, right && top ? offset + step : -1, left && bottom ? offset + stride : -1,
                   right && bottom ? offset + stride + step : -1};
  return sample;
}

template <class S>
__device__ inline Corners<typename S::Compute> corner_weights(const Sample<S>& sample) {
  using Compute = typename S::Compute;
  const Compute right = sample.fraction_x, left = Compute(1) - right;
  const Compute bottom = sample.fraction_y * sample.weight, top = sample.weight - bottom;
  return {left * top, right * top, left * bottom, right * bottom};
}

// Calls body(slot, k, there) for the samples [first, first + kChunk) of the warp's queries, shared out among its lanes.
// `there` is false beyond the queries and beyond the samples.
template <class S, class Body>
__device__ inline void for_each_sample(const Call<typename S::Compute>& call, const Place<S>& place, int first,
                                       const Body& body) {
  const int count = call.levels * call.points;
#pragma unroll
  for (int item = threadIdx.x % kWarp; item < S::kWarpQueries * kChunk; item += kWarp) {
    const int slot = place.warp_slot + item / kChunk, k = first + item % kChunk;
    body(slot, k, place.first_query + slot < call.queries && k < count);
  }
}

// Fills a chunk, with samples that read nothing where there are none; keep(slot, k - first, sample) sees them as well.
template <class S, bool fused, class Keep>
__device__ inline void stage(const Call<typename S::Compute>& call, const Place<S>& place, int first,
                             const typename S::Compute (*statistics)[2], SharedSamples<S>& samples, const Keep& keep) {
  for_each_sample(call, place, first, [&](int slot, int k, bool there) {
    Sample<S> sample{0, 0, 0, {-1, -1, -1, -1}};
    if (there) {
      const int64_t query = place.b * call.queries + place.first_query + slot;
      sample = prepare<S, fused>(call, query, query * call.heads + place.n, k, statistics[slot]);
    }
    samples.weight[slot][k - first] = corner_weights(sample);
    samples.offset[slot][k - first] = sample.offset;
    keep(slot, k - first, sample);
  });
}

// Calls body(i, c, offset, weight, row) for each corner c of a slot's samples k + i, with i below kInFlight; all rows
// are loaded before the first call. `base`: the lane's channels in the head's first row.
template <class S, class Body>
__device__ inline void for_each_corner(const typename S::Element* base, const SharedSamples<S>& samples, int slot,
                                       int k, const Body& body) {
  using Compute = typename S::Compute;
  Corners<typename S::Offset> offset[kInFlight];
  Packed<typename S::Element, S::kVector> packed[kInFlight][4];
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    offset[i] = in_registers(samples.offset[slot][k + i]);
    load_corners<S>(base, offset[i], packed[i]);
  }
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    const auto weight = in_registers(samples.weight[slot][k + i]);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      Compute row[S::kVector];
      unpack<S::kVector, Compute, typename S::Element>(packed[i][c], row);
      body(i, c, offset[i].at[c], weight.at[c], row);
    }
  }
}

template <class S, bool fused>
__global__ void __launch_bounds__(S::kThreads) forward_kernel(const __grid_constant__ Call<typename S::Compute> call) {
  using T = typename S::Element;
  using Compute = typename S::Compute;
  constexpr int kVector = S::kVector;
  __shared__ SharedSamples<S> samples;
  __shared__ Compute statistics[S::kQueries][2];
  const Place<S> place(call);
  if constexpr (fused) softmax_statistics(call, place, statistics[place.slot]);
  const int count = call.levels * call.points;
  const T* value = static_cast<const T*>(call.value) + place.origin(call);
  // One pass where the lanes' vectors cover the channels; strided passes otherwise.
  for (int pass = 0; pass < call.channels; pass += S::kLanes * kVector) {
    const int channel = pass + place.lane * kVector;
    const bool active = place.active && channel < call.channels;
    Compute total[kVector] = {};
    for (int first = 0; first < count; first += kChunk) {
      __syncwarp();
      stage<S, fused>(call, place, first, statistics, samples, [](int, int, const Sample<S>&) {});
      __syncwarp();
      for (int k = 0; active && k < min(kChunk, count - first); k += kInFlight) {
        for_each_corner<S>(value + channel, samples, place.slot, k,
                           [&](int, int, typename S::Offset, Compute weight, const Compute (&row)[kVector]) {
#pragma unroll
                             for (int j = 0; j < kVector; ++j) total[j] += row[j] * weight;
                           });
      }
    }
    if (active) {
      store_vector<kVector>(static_cast<T*>(call.output) + place.query_head * call.channels + channel, total);
    }
  }
}

// A sample's gradients, from the dot products of the output's gradient with the rows at its corners. x, y: per cell.
template <class Compute>
struct SampleGradients {
  Compute weight, x, y;

  __device__ SampleGradients(const Corners<Compute>& dot, Compute fraction_x, Compute fraction_y, Compute attention) {
    const Compute along_top = dot.at[1] - dot.at[0], along_bottom = dot.at[3] - dot.at[2];
    const Compute top = dot.at[0] + along_top * fraction_x, bottom = dot.at[2] + along_bottom * fraction_x;
    weight = top + (bottom - top) * fraction_y;
    x = (along_top * (Compute(1) - fraction_y) + along_bottom * fraction_y) * attention;
    y = (bottom - top) * attention;
  }
};

template <bool fused, class Compute>
__device__ inline void write_gradients(const Call<Compute>& call, int64_t query, int64_t query_head, int k,
                                       const SampleGradients<Compute>& gradients) {
  const int level = level_of(call, k);
  const int64_t index = query_head * (call.levels * call.points) + k;
  Compute to_x = 1, to_y = 1;
  if (!fused || call.reference_size == 4) {
    to_x = call.geometry.width[level];
    to_y = call.geometry.height[level];
  }
  if (fused && call.reference_size == 4) {
    const Compute* box = call.reference + (query * call.levels + level) * 4;
    to_x *= box[2] * (Compute(0.5) / call.points);
    to_y *= box[3] * (Compute(0.5) / call.points);
  }
  call.grad_samples[2 * index] = gradients.x * to_x;
  call.grad_samples[2 * index + 1] = gradients.y * to_y;
  call.grad_weights[index] = gradients.weight;
}

// Adds a chunk's part to the gradient of a query's reference points. A level belongs to one lane, so nothing is atomic.
// `gradients`: of each sample x and y, per cell.
template <class S>
__device__ inline void add_reference_gradients(const Call<typename S::Compute>& call, const Place<S>& place, int first,
                                               int chunk, const Corners<typename S::Compute>* gradients) {
  using Compute = typename S::Compute;
  const Compute unit = Compute(0.5) / call.points;
  for (int level = place.lane; level < call.levels; level += S::kLanes) {
    Compute* target = call.grad_reference + (place.query_head * call.levels + level) * call.reference_size;
    const int begin = max(first, level * call.points), end = min(first + chunk, (level + 1) * call.points);
    for (int k = begin; k < end; ++k) {
      const int64_t index = place.query_head * (call.levels * call.points) + k;
      const Compute x = gradients[k - first].at[0] * call.geometry.width[level];
      const Compute y = gradients[k - first].at[1] * call.geometry.height[level];
      target[0] += x;
      target[1] += y;
      if (call.reference_size == 4) {
        target[2] += x * call.samples[2 * index] * unit;
        target[3] += y * call.samples[2 * index + 1] * unit;
      }
    }
  }
}

// grad_value and grad_reference come zeroed.
template <class S, bool fused, bool deterministic>
__global__ void __launch_bounds__(S::kThreads) backward_kernel(const __grid_constant__ Call<typename S::Compute> call) {
  using T = typename S::Element;
  using Compute = typename S::Compute;
  using Sum = std::conditional_t<deterministic, unsigned long long, Compute>;
  constexpr int kVector = S::kVector;
  __shared__ SharedSamples<S> samples;
  __shared__ Compute bilinear[S::kQueries][kChunk][3];           // fractions of x and y, the attention's weight
  __shared__ Corners<Compute> corners[S::kQueries][kChunk + 1];  // dot products; then x, y and part of the mean
  __shared__ Compute statistics[S::kQueries][2];
  const Place<S> place(call);
  if constexpr (fused) softmax_statistics(call, place, statistics[place.slot]);
  const int count = call.levels * call.points;
  const T* value = static_cast<const T*>(call.value) + place.origin(call);
  const T* grad_row = static_cast<const T*>(call.grad_output) + place.query_head * call.channels;
  Sum* sums = static_cast<Sum*>(call.grad_value) + place.origin(call);
  const Compute scale = deterministic ? *call.scale : Compute(1);
  Compute expected = 0;  // this lane's part of the mean, under the softmax, of the weights' gradients
  Compute grad[kVector];
  if constexpr (kVector > 1) load_vector<kVector>(grad_row + place.lane * kVector, grad);
  for (int first = 0; first < count; first += kChunk) {
    const int chunk = min(kChunk, count - first);
    __syncwarp();
    stage<S, fused>(call, place, first, statistics, samples, [&](int slot, int k, const Sample<S>& sample) {
      bilinear[slot][k][0] = sample.fraction_x;
      bilinear[slot][k][1] = sample.fraction_y;
      bilinear[slot][k][2] = sample.weight;
    });
    __syncwarp();
    for (int k = 0; k < chunk; k += kInFlight) {
      Compute dots[kInFlight][4] = {};
      for (int channel = place.lane * kVector; channel < call.channels; channel += S::kLanes * kVector) {
        if constexpr (kVector == 1) load_vector<kVector>(grad_row + channel, grad);
        for_each_corner<S>(
            value + channel, samples, place.slot, k,
            [&](int i, int c, typename S::Offset offset, Compute weight, const Compute (&row)[kVector]) {
#pragma unroll
              for (int j = 0; j < kVector; ++j) dots[i][c] += row[j] * grad[j];
              if (offset < 0) return;
              add_vector<kVector>(sums + channel + int64_t{kVector} * offset, grad, weight, scale);
            });
        if constexpr (kVector > 1) break;  // the lanes' vectors cover the channels
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) sum_corners<S::kLanes>(dots[i], place.lane, corners[place.slot][k + i]);
    }
    __syncwarp();
    for_each_sample(call, place, first, [&](int slot, int k, bool there) {
      if (!there) return;
      const int64_t query = place.b * call.queries + place.first_query + slot;
      const Compute* at = bilinear[slot][k - first];
      Corners<Compute>& corner = corners[slot][k - first];
      const SampleGradients<Compute> gradients(corner, at[0], at[1], at[2]);
      write_gradients<fused>(call, query, query * call.heads + place.n, k, gradients);
      if constexpr (fused) corner = {gradients.x, gradients.y, gradients.weight * at[2], 0};
    });
    if constexpr (fused) {
      __syncwarp();
      for (int k = place.lane; place.active && k < chunk; k += S::kLanes) expected += corners[place.slot][k].at[2];
      if (place.active && call.grad_reference != nullptr) {
        add_reference_gradients<S>(call, place, first, chunk, corners[place.slot]);
      }
    }
  }
  if constexpr (fused) {  // through the softmax
    expected = group_sum<S::kLanes>(expected);
    for (int k = place.lane; place.active && k < count; k += S::kLanes) {
      const int64_t index = place.query_head * count + k;
      const Compute weight = exponential(call.weights[index] - statistics[place.slot][0]) * statistics[place.slot][1];
      call.grad_weights[index] = weight * (call.grad_weights[index] - expected);
    }
  }
}

}  // namespace detrex_ops::cuda
