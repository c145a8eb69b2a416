// The CUDA kernels as operators for CPU tensors, by emulation: detrex_ops_emulated.forward and .backward.
#include "cuda_emulation.h"

#include <torch/headeronly/util/BFloat16.h>

#include "cuda/calls.cuh"
#include "cuda/cuda_kernels.h"

namespace detrex_ops::cuda {

template <>
inline constexpr bool kIsUpperHalf<torch::headeronly::BFloat16> = true;

namespace {

struct EmulationLauncher {
  template <class Kernel, class Arguments>
  void operator()(Kernel kernel, unsigned blocks, int threads, const Arguments& arguments) const {
    emulation::launch(blocks, threads, [&] { kernel(arguments); });
  }
};

// One of each kind: groups of 2, 4, 8 and 16 lanes with vectors of 8, 4 and 2 channels, and strided channels.
void run(const Problem& problem, Pass pass, const void* scale) {
  using BFloat16 = torch::headeronly::BFloat16;
  if (problem.dtype == Dtype::kFloat64) {
    if (problem.channels == 32) return launch<Shape<double, double, 32>>(problem, pass, scale, EmulationLauncher{});
    return launch<Shape<double, double, 0>>(problem, pass, scale, EmulationLauncher{});
  }
  if (problem.dtype == Dtype::kBFloat16) {
    if (problem.channels == 16) return launch<Shape<BFloat16, float, 16>>(problem, pass, scale, EmulationLauncher{});
    return launch<Shape<BFloat16, float, 32>>(problem, pass, scale, EmulationLauncher{});
  }
  return launch<Shape<float, float, 32>>(problem, pass, scale, EmulationLauncher{});
}

}  // namespace

void forward(const Problem& problem, int, void*) { run(problem, Pass::kForward, nullptr); }

void backward(const Problem& problem, const void* scale, int, void*) {
  run(problem, scale == nullptr ? Pass::kBackward : Pass::kDeterministicBackward, scale);
}

}  // namespace detrex_ops::cuda

#define DETREX_OPS_EMULATED
#include "binding_cuda_stable.cpp"
