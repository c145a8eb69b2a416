#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "cpu_kernels.h"

namespace detrex_ops::cpu {
namespace {

#if defined(__x86_64__)
bool has_f16c() {  // older compilers' __builtin_cpu_supports does not know it
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool supported(const Kernels* kernels) {
  if (kernels == nullptr) return false;
#if defined(__x86_64__)
  if (kernels == kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
  if (kernels == kAvx2Kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
  return true;
}

const Kernels& find(const std::string& name) {
  for (const Kernels* kernels : {kAvx512Kernels, kAvx2Kernels, kPlainKernels}) {
    if (supported(kernels) && (name.empty() || name == kernels->name)) return *kernels;
  }
  throw std::runtime_error("instruction set " + name +
                           ": this processor or build has no such kernel; DETREX_OPS_ISA is avx512, avx2, plain or unset");
}

// Not before the first use: a wrong name in the environment shall not keep the library from loading.
std::atomic<const Kernels*>& selected() {
  static std::atomic<const Kernels*> kernels{[] {
    const char* name = std::getenv("DETREX_OPS_ISA");
    return &find(name == nullptr ? "" : name);
  }()};
  return kernels;
}

}  // namespace

const Kernels& select_kernels() { return *selected().load(std::memory_order_relaxed); }

void use_instruction_set(const char* name) { selected().store(&find(name), std::memory_order_relaxed); }

}  // namespace detrex_ops::cpu
