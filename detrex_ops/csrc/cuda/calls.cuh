// From a Problem to the call of a kernel, whatever launches it.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "../problem.h"
#include "kernels.cuh"

namespace detrex_ops::cuda {

template <class S>
Call<typename S::Compute> make_call(const Problem& problem, const void* scale) {
  using Compute = typename S::Compute;
  if (problem.levels > kMaxLevels) throw std::runtime_error("ms_deform_attn: the CUDA kernels take up to 8 levels");
  if (problem.tokens > std::numeric_limits<int32_t>::max()) throw std::runtime_error("ms_deform_attn: too many tokens");
  const int64_t row_step = problem.heads * problem.channels / S::kVector;
  if (S::kVector > 1 && row_step > std::numeric_limits<int32_t>::max() / std::max<int64_t>(problem.tokens, 1)) {
    throw std::runtime_error("ms_deform_attn: one image exceeds 2^31 vectors of 16 bytes");
  }
  if (problem.points >= int64_t{1} << 14) throw std::runtime_error("ms_deform_attn: too many points");
  Call<Compute> call{};
  call.batch = problem.batch;
  call.tokens = problem.tokens;
  call.queries = problem.queries;
  call.query_blocks = (problem.queries + S::kQueries - 1) / S::kQueries;
  call.point_reciprocal = ((int64_t{1} << 32) + problem.points - 1) / problem.points;
  call.heads = static_cast<int>(problem.heads);
  call.channels = static_cast<int>(problem.channels);
  call.row_step = static_cast<int>(row_step);
  call.levels = static_cast<int>(problem.levels);
  call.points = static_cast<int>(problem.points);
  call.reference_size = static_cast<int>(problem.reference_size);
  int start = 0;
  for (int l = 0; l < call.levels; ++l) {
    call.geometry.height[l] = static_cast<int>(problem.spatial_shapes[2 * l]);
    call.geometry.width[l] = static_cast<int>(problem.spatial_shapes[2 * l + 1]);
    call.geometry.start[l] = start;
    start += call.geometry.height[l] * call.geometry.width[l];
  }
  call.value = problem.value;
  call.reference = static_cast<const Compute*>(problem.reference);
  call.samples = static_cast<const Compute*>(problem.samples);
  call.weights = static_cast<const Compute*>(problem.weights);
  call.output = problem.output;
  call.grad_output = problem.grad_output;
  call.grad_value = problem.grad_value;
  call.grad_samples = static_cast<Compute*>(problem.grad_samples);
  call.grad_weights = static_cast<Compute*>(problem.grad_weights);
  call.grad_reference = static_cast<Compute*>(problem.grad_reference);
  call.scale = static_cast<const Compute*>(scale);
  return call;
}

enum class Pass { kForward, kBackward, kDeterministicBackward };

template <class S, bool fused, class Launcher>
void launch_form(const Problem& problem, Pass pass, const void* scale, const Launcher& launcher) {
  const auto call = make_call<S>(problem, scale);
  const int64_t blocks = call.batch * call.heads * call.query_blocks;
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<int32_t>::max()) throw std::runtime_error("ms_deform_attn: too many queries");
  const auto grid = static_cast<unsigned>(blocks);
  switch (pass) {
    case Pass::kForward: return launcher(forward_kernel<S, fused>, grid, S::kThreads, call);
    case Pass::kBackward: return launcher(backward_kernel<S, fused, false>, grid, S::kThreads, call);
    case Pass::kDeterministicBackward: return launcher(backward_kernel<S, fused, true>, grid, S::kThreads, call);
  }
}

template <class S, class Launcher>
void launch(const Problem& problem, Pass pass, const void* scale, const Launcher& launcher) {
  if (problem.reference_size == 0) return launch_form<S, false>(problem, pass, scale, launcher);
  launch_form<S, true>(problem, pass, scale, launcher);
}

}  // namespace detrex_ops::cuda
