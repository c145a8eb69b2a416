// Compiled for one instruction set whatever the command line says; standard headers come before, so that none of their
// inline functions is compiled for it.
#include "kernel_includes.h"

namespace detrex_ops::cpu {
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,f16c")
#endif
#define DETREX_HALVES_TO_FLOATS(source) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)))
#define DETREX_FLOATS_TO_HALVES(target, v) \
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT))
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
