// Multi-tensor apply: any number of tensors in one launch, one block for each chunk of a table that stays on the device.

#include "update.cuh"
#include "walk.cuh"

namespace gpu_adam {

// The table of gpu_adam.plan.Table: for S segments and C chunks seven rows of S pointers, S begins, S ends, S coefficient rows, C chunk
// segments, C chunk starts and, for strided tensors, S walks.
enum TableRow { kParam, kGrad, kState, kMasterRow = kState + kMaxStates, kAverageRow, kBegin, kEnd, kCoefficients, kTableRows };

// A block's share of the table: its tensor, and which of its elements the block updates.
template <typename K>
struct Chunk {
  Tensor<K> tensor;
  Window window;
  long long start;
  const typename K::W* row;
  const long long* walk;

  __device__ __forceinline__ Chunk(const long long* table, long long segments, long long chunks, long long chunk,
                                   const typename K::W* coefficients) {
    const long long* const chunk_segments = table + kTableRows * segments;
    const long long* const chunk_starts = chunk_segments + chunks;
    const long long segment = chunk_segments[blockIdx.x];
    start = chunk_starts[blockIdx.x];
    const long long* const column = table + segment;

    tensor.param = reinterpret_cast<typename K::Param*>(column[kParam * segments]);
    tensor.grad = reinterpret_cast<const typename K::Grad*>(column[kGrad * segments]);
#pragma unroll
    for (int s = 0; s < K::kStates; ++s) tensor.state[s] = reinterpret_cast<typename K::W*>(column[(kState + s) * segments]);
    if constexpr (K::kMaster) tensor.master = reinterpret_cast<float*>(column[kMasterRow * segments]);
    if constexpr (K::kAverage) tensor.average = reinterpret_cast<typename K::W*>(column[kAverageRow * segments]);

    const long long begin = column[kBegin * segments];
    const long long end = column[kEnd * segments];
    window = {begin > start ? begin : start, end < start + chunk ? end : start + chunk};
    row = coefficients + kRowWords * column[kCoefficients * segments];
    walk = chunk_starts + chunks + Walk<2>::kWords * segment;
  }
};

// Tensors whose elements, and whose gradient's, lie one after the other.
//
// Args:
//   table, segments, chunks: the table and its sizes; the grid has `chunks` blocks.
//   chunk: elements of a chunk, a multiple of every vector.
//   coefficients: all rows; the table says which one a tensor takes.
template <typename Rule, typename P, typename G, bool kMaster, bool kAverage, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads)
    multi_tensor(const long long* table, long long segments, long long chunks, long long chunk, const Working<P>* coefficients) {
  using K = Kind<Rule, P, G, kMaster, kAverage>;
  const Chunk<K> share(table, segments, chunks, chunk, coefficients);
  const Row<Working<P>> row(share.row);
  if (row.skips()) return;
  constexpr int kStep = kVectors * kThreads * K::kLanes;
  for (long long at = share.start; at < share.window.last; at += kStep)
    update_vectors<K, kVectors, kThreads>(share.tensor, at, share.window, row);
}

// Blocks that a multiprocessor must have registers for: left to itself NVRTC 13.5 aims at four on sm_120, and spills.
template <typename P>
constexpr int kStridedBlocks = sizeof(P) == 8 ? 2 : 3;

// Tensors with strides of their own. The states and the master copy lie in the walk's order; parameter and gradient are reached
// through their strides, element by element, kElements of them in flight.
template <typename Rule, typename P, typename G, bool kMaster, bool kAverage, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads, (kStridedBlocks<P>))
    strided(const long long* table, long long segments, long long chunks, long long chunk, const Working<P>* coefficients) {
  using K = Kind<Rule, P, G, kMaster, kAverage>;
  using W = Working<P>;
  constexpr int kElements = 4 * kVectors;
  const Chunk<K> share(table, segments, chunks, chunk, coefficients);
  const Tensor<K>& tensor = share.tensor;
  const Row<W> row(share.row);
  if (row.skips()) return;
  const Walk<2> walk(share.walk, share.window.last);
  for (long long at = share.window.first + threadIdx.x; at < share.window.last; at += kElements * kThreads) {
    Places<2> place[kElements];
    Element<W> e[kElements];
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const long long i = at + k * kThreads;
      if (i >= share.window.last) continue;
      place[k] = walk.at(i);
      if constexpr (K::kMaster) {
        e[k].param = get(tensor.master + i);
      } else {
        e[k].param = widen<W>(get(tensor.param + place[k].of[0]));
      }
      e[k].grad = widen<W>(get(tensor.grad + place[k].of[1]));
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) e[k].state[s] = get(tensor.state[s] + i);
      if constexpr (K::kAverage) e[k].average = get(tensor.average + i);
    }
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const long long i = at + k * kThreads;
      if (i >= share.window.last) continue;
      update<K>(e[k], row);
      put(tensor.param + place[k].of[0], narrow<P>(e[k].param));
      if constexpr (K::kMaster) put(tensor.master + i, e[k].param);
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) put(tensor.state[s] + i, e[k].state[s]);
      if constexpr (K::kAverage) put(tensor.average + i, e[k].average);
    }
  }
}

}  // namespace gpu_adam
