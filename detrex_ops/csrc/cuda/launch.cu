#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <limits>
#include <stdexcept>
#include <string>

#include "cuda_kernels.h"
#include "kernels.cuh"

namespace detrex_ops::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear it, so that it is not reported by whoever calls CUDA next
  throw std::runtime_error(std::string("ms_deform_attn: ") + what + ": " + cudaGetErrorString(status));
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

template <class S>
Call<typename S::Compute> make_call(const Problem& problem, const void* scale) {
  using Compute = typename S::Compute;
  if (problem.levels > kMaxLevels) throw std::runtime_error("ms_deform_attn: the CUDA kernels take up to 8 levels");
  if (problem.tokens > std::numeric_limits<int32_t>::max()) throw std::runtime_error("ms_deform_attn: too many tokens");
  Call<Compute> call{};
  call.batch = problem.batch;
  call.tokens = problem.tokens;
  call.heads = problem.heads;
  call.queries = problem.queries;
  call.query_blocks = (problem.queries + S::kQueries - 1) / S::kQueries;
  call.channels = static_cast<int>(problem.channels);
  call.levels = static_cast<int>(problem.levels);
  call.points = static_cast<int>(problem.points);
  int start = 0;
  for (int l = 0; l < call.levels; ++l) {
    call.geometry.height[l] = static_cast<int>(problem.spatial_shapes[2 * l]);
    call.geometry.width[l] = static_cast<int>(problem.spatial_shapes[2 * l + 1]);
    call.geometry.start[l] = start;
    start += call.geometry.height[l] * call.geometry.width[l];
  }
  call.value = problem.value;
  call.reference = static_cast<const Compute*>(problem.reference);
  call.samples = static_cast<const Compute*>(problem.samples);
  call.weights = static_cast<const Compute*>(problem.weights);
  call.output = problem.output;
  call.grad_output = problem.grad_output;
  call.grad_value = problem.grad_value;
  call.grad_samples = static_cast<Compute*>(problem.grad_samples);
  call.grad_weights = static_cast<Compute*>(problem.grad_weights);
  call.grad_reference = static_cast<Compute*>(problem.grad_reference);
  call.scale = static_cast<const Compute*>(scale);
  return call;
}

enum class Pass { kForward, kBackward, kDeterministicBackward };

template <class S, int reference_size>
void launch(const Problem& problem, Pass pass, const void* scale, cudaStream_t stream) {
  const auto call = make_call<S>(problem, scale);
  const int64_t blocks = call.batch * call.heads * call.query_blocks;
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<int32_t>::max()) throw std::runtime_error("ms_deform_attn: too many queries");
  const dim3 grid(static_cast<unsigned>(blocks));
  switch (pass) {
    case Pass::kForward: forward_kernel<S, reference_size><<<grid, S::kThreads, 0, stream>>>(call); break;
    case Pass::kBackward: backward_kernel<S, reference_size, false><<<grid, S::kThreads, 0, stream>>>(call); break;
    case Pass::kDeterministicBackward: backward_kernel<S, reference_size, true><<<grid, S::kThreads, 0, stream>>>(call);
  }
  check(cudaGetLastError(), "launch");
}

template <class T, class Compute, int channels>
void with_reference(const Problem& problem, Pass pass, const void* scale, cudaStream_t stream) {
  using S = Shape<T, Compute, channels>;
  switch (problem.reference_size) {
    case 0: return launch<S, 0>(problem, pass, scale, stream);
    case 2: return launch<S, 2>(problem, pass, scale, stream);
    default: return launch<S, 4>(problem, pass, scale, stream);
  }
}

template <class T, class Compute>
void with_channels(const Problem& problem, Pass pass, const void* scale, cudaStream_t stream) {
  switch (problem.channels) {
    case 16: return with_reference<T, Compute, 16>(problem, pass, scale, stream);
    case 32: return with_reference<T, Compute, 32>(problem, pass, scale, stream);
    case 64: return with_reference<T, Compute, 64>(problem, pass, scale, stream);
    default: return with_reference<T, Compute, 0>(problem, pass, scale, stream);
  }
}

void run(const Problem& problem, Pass pass, const void* scale, int device, void* stream_handle) {
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  switch (problem.dtype) {
    case Dtype::kFloat32: return with_channels<float, float>(problem, pass, scale, stream);
    case Dtype::kFloat64: return with_channels<double, double>(problem, pass, scale, stream);
    case Dtype::kBFloat16: return with_channels<__nv_bfloat16, float>(problem, pass, scale, stream);
    case Dtype::kFloat16: return with_channels<__half, float>(problem, pass, scale, stream);
  }
}

}  // namespace

void forward(const Problem& problem, int device, void* stream) {
  run(problem, Pass::kForward, nullptr, device, stream);
}

void backward(const Problem& problem, const void* scale, int device, void* stream) {
  run(problem, scale == nullptr ? Pass::kBackward : Pass::kDeterministicBackward, scale, device, stream);
}

}  // namespace detrex_ops::cuda
