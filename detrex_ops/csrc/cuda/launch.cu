#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda_kernels.h"
#include "calls.cuh"

namespace detrex_ops::cuda {

template <>
inline constexpr bool kIsUpperHalf<__nv_bfloat16> = true;

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

// Queues a kernel on a stream.
struct StreamLauncher {
  cudaStream_t stream;

  template <class Kernel, class Arguments>
  void operator()(Kernel kernel, unsigned blocks, int threads, const Arguments& arguments) const {
    kernel<<<dim3(blocks), threads, 0, stream>>>(arguments);
    check(cudaGetLastError(), "launch");
  }
};

template <class T, class Compute>
void with_channels(const Problem& problem, Pass pass, const void* scale, const StreamLauncher& launcher) {
  switch (problem.channels) {
    case 16: return launch<Shape<T, Compute, 16>>(problem, pass, scale, launcher);
    case 32: return launch<Shape<T, Compute, 32>>(problem, pass, scale, launcher);
    case 64: return launch<Shape<T, Compute, 64>>(problem, pass, scale, launcher);
    default: return launch<Shape<T, Compute, 0>>(problem, pass, scale, launcher);
  }
}

void run(const Problem& problem, Pass pass, const void* scale, int device, void* stream_handle) {
  const DeviceGuard guard(device);
  const StreamLauncher launcher{static_cast<cudaStream_t>(stream_handle)};
  switch (problem.dtype) {
    case Dtype::kFloat32: return with_channels<float, float>(problem, pass, scale, launcher);
    // For gradient checks: one kernel for all channel counts.
    case Dtype::kFloat64: return launch<Shape<double, double, 0>>(problem, pass, scale, launcher);
    case Dtype::kBFloat16: return with_channels<__nv_bfloat16, float>(problem, pass, scale, launcher);
    case Dtype::kFloat16: return with_channels<__half, float>(problem, pass, scale, launcher);
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
