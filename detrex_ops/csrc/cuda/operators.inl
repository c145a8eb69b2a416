// The operators of detrex_ops_cuda, the same on both ABIs. `stream` is a cudaStream_t.
#include "../operators.inl"
#include "cuda_kernels.h"

namespace detrex_ops::cuda {

template <class Library>
void define(Library& library) {
  library.def(
      "forward(Tensor value, int[] spatial_shapes, Tensor? reference, Tensor samples, Tensor weights, "
      "Tensor(a!) output, int stream) -> ()");
  // grad_value: zeros, float or double; int64 beside `scale`, for sums in fixed point. grad_reference: zeros.
  library.def(
      "backward(Tensor grad_output, Tensor value, int[] spatial_shapes, Tensor? reference, Tensor samples, "
      "Tensor weights, Tensor(a!) grad_value, Tensor(b!)? grad_reference, Tensor(c!) grad_samples, "
      "Tensor(d!) grad_weights, Tensor? scale, int stream) -> ()");
}

void forward_operator(const Tensor value, const Shapes shapes, const std::optional<Tensor> reference,
                      const Tensor samples, const Tensor weights, const Tensor output, int64_t stream) {
  const Problem problem = forward_problem(value, shapes, reference, samples, weights, output);
  forward(problem, device_index(value), reinterpret_cast<void*>(stream));
}

void backward_operator(const Tensor grad_output, const Tensor value, const Shapes shapes,
                       const std::optional<Tensor> reference, const Tensor samples, const Tensor weights,
                       const Tensor grad_value, const std::optional<Tensor> grad_reference, const Tensor grad_samples,
                       const Tensor grad_weights, const std::optional<Tensor> scale, int64_t stream) {
  using Scalar = decltype(value.scalar_type());
  const auto sums = scale.has_value() ? Scalar::Long : samples.scalar_type();
  require(grad_value.scalar_type() == sums, "grad_value of a wrong type");
  if (scale.has_value()) require_tensor(*scale, 1, samples.scalar_type(), "scale of a wrong size or type");
  const Problem problem = backward_problem(grad_output, value, shapes, reference, samples, weights, grad_value,
                                           grad_reference, grad_samples, grad_weights);
  backward(problem, scale.has_value() ? data(*scale) : nullptr, device_index(value), reinterpret_cast<void*>(stream));
}

}  // namespace detrex_ops::cuda
