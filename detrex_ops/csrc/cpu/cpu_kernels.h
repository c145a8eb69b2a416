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

// The best set that this processor has, or the one that DETREX_OPS_ISA or the last use_instruction_set names.
const Kernels& select_kernels();

// avx512, avx2, plain, or empty for the best; throws where this processor or build has no such kernel. For tests and
// benchmarks, which compare the sets in one process. No std::string: torch before 2.7 is of another C++ ABI, for which
// only the binding is compiled.
void use_instruction_set(const char* name);

}  // namespace detrex_ops::cpu
