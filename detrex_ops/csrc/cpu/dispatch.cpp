#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu_kernels.h"

namespace detrex_ops::cpu {
namespace {

bool supported(const Kernels* kernels) {
  if (kernels == nullptr) return false;
#if defined(__x86_64__)
  if (kernels == kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
  if (kernels == kAvx2Kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

const Kernels& select() {
  const char* forced = std::getenv("DETREX_OPS_ISA");
  for (const Kernels* kernels : {kAvx512Kernels, kAvx2Kernels, kPlainKernels}) {
    if (supported(kernels) && (forced == nullptr || *forced == '\0' || std::string(forced) == kernels->name)) {
      return *kernels;
    }
  }
  throw std::runtime_error("DETREX_OPS_ISA=" + std::string(forced) +
                           ": this processor or build has no such kernel; use avx512, avx2, plain or leave it unset");
}

}  // namespace

const Kernels& select_kernels() {
  static const Kernels& kernels = select();
  return kernels;
}

}  // namespace detrex_ops::cpu
