// The operators' bodies, the same for both bindings: tensors, checked and allocated in Python, become a Problem.
#include "problem.h"

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
}

template <class Scalar>
Dtype dtype_of(Scalar scalar) {
  if (scalar == Scalar::Double) return Dtype::kFloat64;
  if (scalar == Scalar::BFloat16) return Dtype::kBFloat16;
  if (scalar == Scalar::Half) return Dtype::kFloat16;
  return Dtype::kFloat32;
}

template <class ShapeList>
Problem describe(const Tensor& value, const ShapeList& shapes, const std::optional<Tensor>& reference,
                 const Tensor& samples, const Tensor& weights) {
  Problem problem{};
  problem.dtype = dtype_of(value.scalar_type());
  problem.batch = value.size(0);
  problem.tokens = value.size(1);
  problem.heads = value.size(2);
  problem.channels = value.size(3);
  problem.queries = samples.size(1);
  problem.levels = samples.size(3);
  problem.points = samples.size(4);
  problem.reference_size = reference.has_value() ? reference->size(3) : 0;
  problem.spatial_shapes = shapes.data();
  problem.value = data(value);
  problem.reference = reference.has_value() ? data(*reference) : nullptr;
  problem.samples = data(samples);
  problem.weights = data(weights);
  problem.num_threads = num_threads();
  problem.parallel_for = &parallel_for;
  return problem;
}

void forward(const Tensor value, const Shapes shapes, const std::optional<Tensor> reference, const Tensor samples,
             const Tensor weights, const Tensor output) {
  Problem problem = describe(value, shapes, reference, samples, weights);
  problem.output = mutable_data(output);
  select_kernels().forward(problem);
}

void backward(const Tensor grad_output, const Tensor value, const Shapes shapes, const std::optional<Tensor> reference,
              const Tensor samples, const Tensor weights, const Tensor grad_value,
              const std::optional<Tensor> grad_reference, const Tensor grad_samples, const Tensor grad_weights) {
  Problem problem = describe(value, shapes, reference, samples, weights);
  problem.grad_output = data(grad_output);
  problem.grad_value = mutable_data(grad_value);
  problem.grad_reference = grad_reference.has_value() ? mutable_data(*grad_reference) : nullptr;
  problem.grad_samples = mutable_data(grad_samples);
  problem.grad_weights = mutable_data(grad_weights);
  select_kernels().backward(problem);
}

std::string instruction_set() { return select_kernels().name; }

}  // namespace detrex_ops::cpu
