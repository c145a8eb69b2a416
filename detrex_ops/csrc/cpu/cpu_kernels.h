// The CPU kernels of each instruction set, and the choice between them.
#pragma once

#include "../problem.h"

namespace detrex_ops::cpu {

// What an instruction set provides.
struct Kernels {
  const char* name;
  void (*forward)(const Problem&);
  void (*backward)(const Problem&);
};

// Null where the compiler or the architecture has no such instruction set.
extern const Kernels* const kAvx512Kernels;
extern const Kernels* const kAvx2Kernels;
extern const Kernels* const kPlainKernels;

// The best set that this processor has, or the one that DETREX_OPS_ISA names (avx512, avx2, plain).
const Kernels& select_kernels();

}  // namespace detrex_ops::cpu
