// The kernels, included once per instruction set into a namespace that has defined kVectorBytes.
#include "simd.inl"
#include "storage.inl"
#include "samples.inl"
#include "forward.inl"
#include "backward.inl"

template <template <class> class Run>
void dispatch(const Problem& problem) {
  switch (problem.dtype) {
    case Dtype::kFloat32: return Run<float>::run(problem);
    case Dtype::kFloat64: return Run<double>::run(problem);
    case Dtype::kBFloat16: return Run<BFloat16>::run(problem);
    case Dtype::kFloat16: return Run<Float16>::run(problem);
  }
}

inline void forward(const Problem& problem) { dispatch<Forward>(problem); }
inline void backward(const Problem& problem) { dispatch<Backward>(problem); }
