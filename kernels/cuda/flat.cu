// The flat family: one stretch of a bucket that holds the parameters, gradients and states themselves. Nothing is looked up.

#include "update.cuh"

namespace gpu_adam {

// Threads that a multiprocessor must have registers for. Three blocks of 256 keep the memory busy; left to itself NVRTC 13.5 aims at four
// on sm_100 and spills. Where one of parameter and gradient is float64 and the other is not, a vector of one is several of the other: three
// blocks leave too few registers for them, and fewer ask for as much. Multi-tensor kernels take twice the registers with a bound, or spill.
template <typename K>
constexpr int kFlatThreads = (sizeof(typename K::Param) == 8) == (sizeof(typename K::Grad) == 8) ? 768
                             : sizeof(typename K::Grad) == 2                                     ? 256
                                                                                                 : 512;

// One block updates kStep elements at a time; the grid covers [0, size) at once, or where it is persistent, by turns. That is chosen at
// compile time: to keep the pointers and the coefficients over the turns takes a flat kernel 6 to 22 registers.
//
// Args:
//   param ... average: the streams; those that the kind does not have are null. Any alignment is right, 16 bytes is fast.
//   size: elements.
//   row: the stretch's row of coefficients.
template <typename K>
__global__ void __launch_bounds__(K::kThreads, (kMinBlocks<K, kFlatThreads<K>>))
    flat(typename K::Param* param, const typename K::Grad* grad, typename K::W* state0, typename K::W* state1, typename K::W* state2,
         float* master, typename K::W* average, long long size, const typename K::W* row) {
  const Row<typename K::W> coefficients(row);
  if (coefficients.skips()) return;
  const Tensor<K> tensor = {param, grad, {state0, state1, state2}, master, average};
  long long at = blockIdx.x * K::kStep;
  do {
    update_vectors(tensor, at, Window{0, size}, coefficients);
  } while (K::kPersistent && (at += gridDim.x * K::kStep) < size);
}

}  // namespace gpu_adam
