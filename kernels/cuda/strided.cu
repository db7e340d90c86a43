// Multi-tensor apply for tensors that have strides of their own, or whose gradients have.

#include "chunk.cuh"
#include "walk.cuh"

namespace gpu_adam {

// Threads that a multiprocessor must have registers for: left to itself NVRTC 13.5 aims at four blocks of 256 on sm_120, and spills.
template <typename K>
constexpr int kStridedThreads = sizeof(typename K::Param) == 8 ? 512 : 768;

// Tensors with strides of their own. The states and the master copy lie in the walk's order; parameter and gradient are reached
// through their strides, element by element, kElements of them in flight.
template <typename K>
__global__ void __launch_bounds__(K::kThreads, (kMinBlocks<K, kStridedThreads<K>>))
    strided(const long long* table, long long segments, long long chunks, long long chunk, const typename K::W* coefficients) {
  using W = typename K::W;
  using Streams = typename K::Hint::Streams;
  constexpr int kElements = 4 * K::kVectors;
  long long number = blockIdx.x;
  do {
    const Chunk<K> share(table, segments, chunks, chunk, coefficients, number);
    const Tensor<K>& tensor = share.tensor;
    const Row<W> row(share.row);
    if (row.skips()) continue;
    const Walk<2> walk(share.walk, share.window.last);
    for (long long at = share.window.first + threadIdx.x; at < share.window.last; at += kElements * K::kThreads) {
      Places<2> place[kElements];
      Element<W> e[kElements];
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        const long long i = at + k * K::kThreads;
        if (i >= share.window.last) continue;
        place[k] = walk.at(i);
        if constexpr (K::kHasMaster) {
          e[k].param = get<Streams>(tensor.master + i);
        } else {
          e[k].param = widen<W>(get<Streams>(tensor.param + place[k].of[0]));
        }
        e[k].grad = widen<W>(get<Streams>(tensor.grad + place[k].of[1]));
#pragma unroll
        for (int s = 0; s < K::kStates; ++s) e[k].state[s] = get<Streams>(tensor.state[s] + i);
        if constexpr (K::kHasAverage) e[k].average = get<Streams>(tensor.average + i);
      }
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        const long long i = at + k * K::kThreads;
        if (i >= share.window.last) continue;
        update<K>(e[k], row);
        put<typename K::Hint::Param>(tensor.param + place[k].of[0], narrow<typename K::Param>(e[k].param));
        if constexpr (K::kHasMaster) put<Streams>(tensor.master + i, e[k].param);
#pragma unroll
        for (int s = 0; s < K::kStates; ++s) put<Streams>(tensor.state[s] + i, e[k].state[s]);
        if constexpr (K::kHasAverage) put<Streams>(tensor.average + i, e[k].average);
      }
    }
  } while (K::kPersistent && (number += gridDim.x) < chunks);
}

}  // namespace gpu_adam
