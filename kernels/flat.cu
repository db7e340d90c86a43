// The flat family: one stretch of a bucket that holds the parameters, gradients and states themselves. Nothing is looked up.

#include "adam.cuh"
#include "update.cuh"

namespace gpu_adam {

// Blocks that a multiprocessor must have registers for. Three keep the memory busy; left to itself NVRTC 13.5 aims at four on sm_100
// and spills. The other families, left to themselves, do not spill, and with this bound they do.
constexpr int kMinBlocks = 3;

// One block updates kThreads * kVectors vectors; the grid covers [0, size).
//
// Args:
//   param ... master: the streams; those that the kind does not have are null. Any alignment is right, 16 bytes is fast.
//   size: elements.
//   row: the stretch's row of coefficients.
template <typename Rule, typename P, typename G, bool kMaster, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads, kMinBlocks) flat(P* param, const G* grad, Working<P>* state0, Working<P>* state1,
                                                             Working<P>* state2, float* master, long long size, const Working<P>* row) {
  using K = Kind<Rule, P, G, kMaster>;
  const Tensor<K> tensor = {param, grad, {state0, state1, state2}, master};
  const Row<Working<P>> coefficients(row);
  const long long at = static_cast<long long>(blockIdx.x) * (kThreads * kVectors * K::kLanes);
  update_vectors<K, kVectors, kThreads>(tensor, at, Window{0, size}, coefficients);
}

}  // namespace gpu_adam
