// The CPU kernels as torch operators on the LibTorch stable ABI: one binary for torch 2.10 and every later one.
// Outputs are allocated by the caller; the Python side of detrex_ops owns schemas that users see, autograd and checks.
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
inline int64_t num_threads() { return torch::stable::get_num_threads(); }

inline void parallel_for(int64_t count, void (*body)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
}
}  // namespace detrex_ops

#include "cpu/operators.inl"

STABLE_TORCH_LIBRARY(detrex_ops_cpu, m) { detrex_ops::cpu::define(m); }

STABLE_TORCH_LIBRARY_IMPL(detrex_ops_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&detrex_ops::cpu::forward));
  m.impl("backward", TORCH_BOX(&detrex_ops::cpu::backward));
}
STABLE_TORCH_LIBRARY_IMPL(detrex_ops_cpu, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&detrex_ops::cpu::instruction_set));
  m.impl("use_instruction_set", TORCH_BOX(&detrex_ops::cpu::set_instruction_set));
}
