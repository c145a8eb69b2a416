// Compiled for one instruction set whatever the command line says; standard headers come before, so that none of their
// inline functions is compiled for it.
#include "kernel_includes.h"

namespace detrex_ops::cpu {
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi2")
#endif
#define DETREX_HALVES_TO_FLOATS(source) \
  _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)))
#define DETREX_FLOATS_TO_HALVES(target, v) \
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT))
namespace avx512 {
constexpr int kVectorBytes = 64;
#include "kernels.inl"
}  // namespace avx512

namespace {
const Kernels kernels{"avx512", &avx512::forward, &avx512::backward};
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
const Kernels* const kAvx512Kernels = &kernels;
#else
const Kernels* const kAvx512Kernels = nullptr;
#endif
}  // namespace detrex_ops::cpu
