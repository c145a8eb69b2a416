// The CPU kernels, run on the end of a problem too large to compute: the caller's parallel_for executes only the
// last item of each loop, so that tensors of any size can be mapped without memory and only their ends are touched.
#include "cpu/kernel_includes.h"

namespace {
using detrex_ops::Problem;
namespace plain {
using namespace detrex_ops;
constexpr int kVectorBytes = 16;
#include "cpu/kernels.inl"
}  // namespace plain

void last_item(int64_t count, detrex_ops::RangeBody body, void* context) { body(count - 1, count, context); }
}  // namespace

extern "C" int run_last_items(Problem* problem, int backward) {
  problem->parallel_for = &last_item;
  try {
    backward ? plain::Backward<float>::run(*problem) : plain::Forward<float>::run(*problem);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
