// Every architecture: 16-byte vectors, which compilers lower to SSE2, NEON or scalars.
#include "kernel_includes.h"

namespace detrex_ops::cpu {
namespace plain {
constexpr int kVectorBytes = 16;
#include "kernels.inl"
}  // namespace plain

namespace {
const Kernels kernels{"plain", &plain::forward, &plain::backward};
}
const Kernels* const kPlainKernels = &kernels;
}  // namespace detrex_ops::cpu
