// The same operators on the ordinary C++ ABI, for torch 2.6 to 2.9: to be built against the torch that will load it.
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace detrex_ops {
using Tensor = at::Tensor;
using Shapes = c10::IntArrayRef;

inline const void* data(const Tensor& tensor) { return tensor.const_data_ptr(); }
inline void* mutable_data(const Tensor& tensor) { return tensor.mutable_data_ptr(); }
inline int device_index(const Tensor& tensor) { return tensor.get_device(); }
}  // namespace detrex_ops

#include "cuda/operators.inl"

TORCH_LIBRARY(detrex_ops_cuda, m) { detrex_ops::cuda::define(m); }

TORCH_LIBRARY_IMPL(detrex_ops_cuda, CUDA, m) {
  m.impl("forward", &detrex_ops::cuda::forward_operator);
  m.impl("backward", &detrex_ops::cuda::backward_operator);
}
