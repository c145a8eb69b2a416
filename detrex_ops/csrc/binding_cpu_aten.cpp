// The same operators on the ordinary C++ ABI, for torch 2.6 to 2.9: to be built against the torch that will load it.
#include <ATen/Parallel.h>
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
inline int64_t num_threads() { return at::get_num_threads(); }

inline void parallel_for(int64_t count, void (*body)(int64_t, int64_t, void*), void* context) {
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
}
}  // namespace detrex_ops

#include "cpu/operators.inl"

TORCH_LIBRARY(detrex_ops_cpu, m) { detrex_ops::cpu::define(m); }

TORCH_LIBRARY_IMPL(detrex_ops_cpu, CPU, m) {
  m.impl("forward", &detrex_ops::cpu::forward);
  m.impl("backward", &detrex_ops::cpu::backward);
}
TORCH_LIBRARY_IMPL(detrex_ops_cpu, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", &detrex_ops::cpu::instruction_set);
  m.impl("use_instruction_set", &detrex_ops::cpu::set_instruction_set);
}
