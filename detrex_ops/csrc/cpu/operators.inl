// The operators of detrex_ops_cpu, the same on both ABIs.
#include "../operators.inl"
#include "cpu_kernels.h"

namespace detrex_ops::cpu {

template <class Library>
void define(Library& library) {
  // `reference` (batch, queries, levels, 2 or 4) selects the fused form.
  library.def(
      "forward(Tensor value, int[] spatial_shapes, Tensor? reference, Tensor samples, Tensor weights, "
      "Tensor(a!) output) -> ()");
  library.def(
      "backward(Tensor grad_output, Tensor value, int[] spatial_shapes, Tensor? reference, Tensor samples, "
      "Tensor weights, Tensor(a!) grad_value, Tensor(b!)? grad_reference, Tensor(c!) grad_samples, "
      "Tensor(d!) grad_weights) -> ()");
  library.def("instruction_set() -> str");
  library.def("use_instruction_set(str name) -> ()");
}

inline Problem with_threads(Problem problem) {
  problem.num_threads = num_threads();
  problem.parallel_for = &parallel_for;
  return problem;
}

void forward(const Tensor value, const Shapes shapes, const std::optional<Tensor> reference, const Tensor samples,
             const Tensor weights, const Tensor output) {
  select_kernels().forward(with_threads(forward_problem(value, shapes, reference, samples, weights, output)));
}

void backward(const Tensor grad_output, const Tensor value, const Shapes shapes, const std::optional<Tensor> reference,
              const Tensor samples, const Tensor weights, const Tensor grad_value,
              const std::optional<Tensor> grad_reference, const Tensor grad_samples, const Tensor grad_weights) {
  require(grad_value.scalar_type() == value.scalar_type(), "grad_value of a wrong type");
  select_kernels().backward(with_threads(backward_problem(grad_output, value, shapes, reference, samples, weights,
                                                          grad_value, grad_reference, grad_samples, grad_weights)));
}

std::string instruction_set() { return select_kernels().name; }

void set_instruction_set(const std::string name) { use_instruction_set(name.c_str()); }

}  // namespace detrex_ops::cpu
