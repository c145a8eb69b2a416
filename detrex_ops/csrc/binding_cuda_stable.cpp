// The CUDA kernels as torch operators on the LibTorch stable ABI. The stream comes from Python, so that nothing of
// torch's CUDA libraries is linked and one binary serves every torch from 2.10 that runs its CUDA runtime's driver.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace detrex_ops {
using Tensor = torch::stable::Tensor;
using Shapes = std::vector<int64_t>;

inline const void* data(const Tensor& tensor) { return tensor.const_data_ptr(); }
inline void* mutable_data(const Tensor& tensor) { return tensor.data_ptr(); }
inline int device_index(const Tensor& tensor) { return static_cast<int>(tensor.get_device()); }
}  // namespace detrex_ops

#include "cuda/operators.inl"

#if defined(DETREX_OPS_EMULATED)  // the test that runs the kernels on a CPU
STABLE_TORCH_LIBRARY(detrex_ops_emulated, m) { detrex_ops::cuda::define(m); }
STABLE_TORCH_LIBRARY_IMPL(detrex_ops_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY(detrex_ops_cuda, m) { detrex_ops::cuda::define(m); }
STABLE_TORCH_LIBRARY_IMPL(detrex_ops_cuda, CUDA, m) {
#endif
  m.impl("forward", TORCH_BOX(&detrex_ops::cuda::forward_operator));
  m.impl("backward", TORCH_BOX(&detrex_ops::cuda::backward_operator));
}
