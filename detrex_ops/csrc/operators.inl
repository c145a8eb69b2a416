// From tensors, checked and allocated in Python, to a Problem: the same for all bindings.
#include "problem.h"

namespace detrex_ops {

template <class Scalar>
Dtype dtype_of(Scalar scalar) {
  if (scalar == Scalar::Double) return Dtype::kFloat64;
  if (scalar == Scalar::BFloat16) return Dtype::kBFloat16;
  if (scalar == Scalar::Half) return Dtype::kFloat16;
  return Dtype::kFloat32;
}

// Python has checked all this with better words; here it keeps a direct call from reading what is not there.
inline void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string("detrex_ops: ") + what);
}

template <class Scalar>
void require_tensor(const Tensor& tensor, int64_t count, Scalar dtype, const char* what) {
  require(tensor.numel() == count && tensor.scalar_type() == dtype && tensor.is_contiguous(), what);
}

template <class ShapeList>
void require_consistent(const Tensor& value, const ShapeList& shapes, const std::optional<Tensor>& reference,
                        const Tensor& samples, const Tensor& weights) {
  using Scalar = decltype(value.scalar_type());
  require(value.dim() == 4 && samples.dim() == 6 && samples.size(5) == 2, "value or samples have the wrong rank");
  const Scalar type = value.scalar_type();
  require(type == Scalar::Float || type == Scalar::Double || type == Scalar::BFloat16 || type == Scalar::Half,
          "value is not of a floating type");
  const Scalar compute = type == Scalar::Double ? Scalar::Double : Scalar::Float;
  require(value.size(2) >= 1 && value.size(3) >= 1, "value has no heads or no channels");
  require(samples.size(0) == value.size(0) && samples.size(2) == value.size(2), "samples do not fit value");
  const int64_t levels = samples.size(3), count = samples.numel() / 2;
  require(levels >= 1 && samples.size(4) >= 1 && static_cast<int64_t>(shapes.size()) == 2 * levels, "wrong levels");
  int64_t tokens = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
    require(height >= 1 && width >= 1, "an empty level");
    require(height <= (value.size(1) - tokens) / width, "levels exceed the tokens of value");  // no product overflows
    tokens += height * width;
  }
  require(tokens == value.size(1), "levels do not add up to the tokens of value");
  require_tensor(value, value.numel(), type, "value is not contiguous");
  require_tensor(samples, 2 * count, compute, "samples of a wrong type or layout");
  require_tensor(weights, count, compute, "weights of a wrong size, type or layout");
  if (reference.has_value()) {
    require(reference->dim() == 4 && (reference->size(3) == 2 || reference->size(3) == 4), "wrong reference points");
    const int64_t points = samples.size(0) * samples.size(1) * levels * reference->size(3);
    require_tensor(*reference, points, compute, "reference points of a wrong size, type or layout");
  }
}

inline int64_t output_size(const Problem& problem) {
  return problem.batch * problem.queries * problem.heads * problem.channels;
}

template <class ShapeList>
Problem describe(const Tensor& value, const ShapeList& shapes, const std::optional<Tensor>& reference,
                 const Tensor& samples, const Tensor& weights) {
  require_consistent(value, shapes, reference, samples, weights);
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
  return problem;
}

inline Problem forward_problem(const Tensor& value, const Shapes& shapes, const std::optional<Tensor>& reference,
                               const Tensor& samples, const Tensor& weights, const Tensor& output) {
  Problem problem = describe(value, shapes, reference, samples, weights);
  require_tensor(output, output_size(problem), value.scalar_type(), "output of a wrong size, type or layout");
  problem.output = mutable_data(output);
  return problem;
}

// The gradient of the value is the caller's to check: its type depends on how the kernel accumulates.
inline Problem backward_problem(const Tensor& grad_output, const Tensor& value, const Shapes& shapes,
                                const std::optional<Tensor>& reference, const Tensor& samples, const Tensor& weights,
                                const Tensor& grad_value, const std::optional<Tensor>& grad_reference,
                                const Tensor& grad_samples, const Tensor& grad_weights) {
  Problem problem = describe(value, shapes, reference, samples, weights);
  require_tensor(grad_output, output_size(problem), value.scalar_type(), "grad_output of a wrong size, type or layout");
  require_tensor(grad_samples, samples.numel(), samples.scalar_type(), "grad_samples of a wrong size, type or layout");
  require_tensor(grad_weights, weights.numel(), weights.scalar_type(), "grad_weights of a wrong size, type or layout");
  require(grad_value.numel() == value.numel() && grad_value.is_contiguous(), "grad_value of a wrong size or layout");
  if (grad_reference.has_value()) {
    require(reference.has_value(), "grad_reference without reference");
    const int64_t count = reference->numel() * problem.heads;
    require_tensor(*grad_reference, count, samples.scalar_type(), "grad_reference of a wrong size, type or layout");
    problem.grad_reference = mutable_data(*grad_reference);
  }
  problem.grad_output = data(grad_output);
  problem.grad_value = mutable_data(grad_value);
  problem.grad_samples = mutable_data(grad_samples);
  problem.grad_weights = mutable_data(grad_weights);
  return problem;
}

}  // namespace detrex_ops
