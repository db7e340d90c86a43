// Multi-tensor apply: any number of tensors in one launch, by the chunks of a table that stays on the device: a block for each,
// or where the grid is persistent, fewer blocks that take one after the other.

#include "abi.cuh"
#include "update.cuh"
#include "walk.cuh"

namespace gpu_adam {

// One chunk of a table: its tensor, and which of its elements are updated. The table is gpu_adam.plan.tables.Table: for S segments
// kTableRows rows of S words; for C chunks C segments and C starts; and, for strided tensors, S walks.
template <typename K>
struct Chunk {
  Tensor<K> tensor;
  Window window;
  long long start;
  const typename K::W* row;
  const long long* walk;

  __device__ __forceinline__ Chunk(const long long* table, long long segments, long long chunks, long long chunk,
                                   const typename K::W* coefficients, long long number) {
    const long long* const chunk_segments = table + kTableRows * segments;
    const long long* const chunk_starts = chunk_segments + chunks;
    const long long segment = chunk_segments[number];
    start = chunk_starts[number];
    const long long* const column = table + segment;

    tensor.param = reinterpret_cast<typename K::Param*>(column[kParamRow * segments]);
    tensor.grad = reinterpret_cast<const typename K::Grad*>(column[kGradRow * segments]);
#pragma unroll
    for (int s = 0; s < K::kStates; ++s) tensor.state[s] = reinterpret_cast<typename K::W*>(column[(kState0Row + s) * segments]);
    if constexpr (K::kHasMaster) tensor.master = reinterpret_cast<float*>(column[kMasterRow * segments]);
    if constexpr (K::kHasAverage) tensor.average = reinterpret_cast<typename K::W*>(column[kAverageRow * segments]);

    const long long begin = column[kBeginRow * segments];
    const long long end = column[kEndRow * segments];
    window = {begin > start ? begin : start, end < start + chunk ? end : start + chunk};
    row = coefficients + kRowWords * column[kCoefficientsRow * segments];
    walk = chunk_starts + chunks + kWalkWords * segment;
  }
};

// Tensors whose elements, and whose gradient's, lie one after the other.
//
// Args:
//   table, segments, chunks: the table and its sizes; a grid that is not persistent has `chunks` blocks.
//   chunk: elements of a chunk, a multiple of every vector.
//   coefficients: all rows; the table says which one a tensor takes.
template <typename K>
__global__ void __launch_bounds__(K::kThreads)
    multi_tensor(const long long* table, long long segments, long long chunks, long long chunk, const typename K::W* coefficients) {
  long long number = blockIdx.x;
  do {
    const Chunk<K> share(table, segments, chunks, chunk, coefficients, number);
    const Row<typename K::W> row(share.row);
    if (row.skips()) continue;
    for (long long at = share.start; at < share.window.last; at += K::kStep) update_vectors(share.tensor, at, share.window, row);
  } while (K::kPersistent && (number += gridDim.x) < chunks);
}

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
