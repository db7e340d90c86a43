// The flat family: one stretch of a bucket that holds the parameters, gradients and states themselves. Nothing is looked up.

#include "update.cuh"

namespace gpu_adam {

// Threads that a multiprocessor must have registers for. Three blocks of 256 keep the memory busy; left to itself NVRTC 13.5 aims at four
// on sm_100 and spills. Where one of parameter and gradient is float64 and the other is not, a vector of one is several of the other: three
// blocks leave too few registers for them, and fewer ask for as much. Multi-tensor kernels take twice the registers with a bound, or spill.
template <typename P, typename G>
constexpr int kFlatThreads = (sizeof(P) == 8) == (sizeof(G) == 8) ? 768
                             : sizeof(G) == 2                     ? 256
                                                                  : 512;

// One block updates kThreads * kVectors vectors at a time; the grid covers [0, size) at once, or where it is persistent, by turns. That is
// chosen at compile time: to keep the pointers and the coefficients over the turns takes a flat kernel 6 to 22 registers.
//
// Args:
//   param ... average: the streams; those that the kind does not have are null. Any alignment is right, 16 bytes is fast.
//   size: elements.
//   row: the stretch's row of coefficients.
template <typename Rule, typename P, typename G, bool kMaster, bool kAverage, int kVectors, int kThreads, typename Hint, bool kPersistent>
__global__ void __launch_bounds__(kThreads, (kMinBlocks<kFlatThreads<P, G>, kThreads>))
    flat(P* param, const G* grad, Working<P>* state0, Working<P>* state1, Working<P>* state2, float* master, Working<P>* average,
         long long size, const Working<P>* row) {
  using K = Kind<Rule, P, G, kMaster, kAverage>;
  const Row<Working<P>> coefficients(row);
  if (coefficients.skips()) return;
  const Tensor<K> tensor = {param, grad, {state0, state1, state2}, master, average};
  constexpr long long kStep = kThreads * kVectors * K::kLanes;
  long long at = blockIdx.x * kStep;
  do {
    update_vectors<K, kVectors, kThreads, Hint>(tensor, at, Window{0, size}, coefficients);
  } while (kPersistent && (at += gridDim.x * kStep) < size);
}

}  // namespace gpu_adam
