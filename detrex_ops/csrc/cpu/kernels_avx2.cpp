// Compiled for one instruction set whatever the command line says; standard headers come before, so that none of their
// inline functions is compiled for it.
#include "kernel_includes.h"

namespace detrex_ops::cpu {
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2")
#endif
namespace avx2 {
constexpr int kVectorBytes = 32;
#include "kernels.inl"
}  // namespace avx2

namespace {
const Kernels kernels{"avx2", &avx2::forward, &avx2::backward};
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
const Kernels* const kAvx2Kernels = &kernels;
#else
const Kernels* const kAvx2Kernels = nullptr;
#endif
}  // namespace detrex_ops::cpu
