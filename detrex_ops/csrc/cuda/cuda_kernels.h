// Launches of the CUDA kernels; raise std::runtime_error where a launch fails.
#pragma once

#include "../problem.h"

namespace detrex_ops::cuda {

void forward(const Problem& problem, int device, void* stream);

// grad_value: zeros, float (or double beside float64); int64_t where `scale` is given: sums in fixed point, `*scale` steps
// to the unit, independent of the order of the additions. grad_reference: zeros.
void backward(const Problem& problem, const void* scale, int device, void* stream);

}  // namespace detrex_ops::cuda
