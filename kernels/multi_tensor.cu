// Multi-tensor apply: any number of tensors in one launch, one block for each chunk of a table that stays on the device.

#include "adam.cuh"
#include "update.cuh"

namespace gpu_adam {

constexpr int kMaxDims = 8;
constexpr int kWalkWords = 1 + 3 * kMaxDims;

// The table of gpu_adam.plan.Table: for S segments and C chunks six rows of S pointers, S begins, S ends, S coefficient rows, C chunk
// segments, C chunk starts and, for strided tensors, S walks.
enum TableRow { kParam, kGrad, kState, kMasterRow = kState + kMaxStates, kBegin, kEnd, kCoefficients, kTableRows };

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

    const long long begin = column[kBegin * segments];
    const long long end = column[kEnd * segments];
    window = {begin > start ? begin : start, end < start + chunk ? end : start + chunk};
    row = coefficients + kRowWords * column[kCoefficients * segments];
    walk = chunk_starts + chunks + kWalkWords * segment;
  }
};

// Tensors whose elements, and whose gradient's, lie one after the other.
//
// Args:
//   table, segments, chunks: the table and its sizes; the grid has `chunks` blocks.
//   chunk: elements of a chunk, a multiple of every vector.
//   coefficients: all rows; the table says which one a tensor takes.
template <typename Rule, typename P, typename G, bool kMaster, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads)
    multi_tensor(const long long* table, long long segments, long long chunks, long long chunk, const Working<P>* coefficients) {
  using K = Kind<Rule, P, G, kMaster>;
  const Chunk<K> share(table, segments, chunks, chunk, coefficients);
  const Row<Working<P>> row(share.row);
  constexpr int kStep = kVectors * kThreads * K::kLanes;
  for (long long at = share.start; at < share.window.last; at += kStep)
    update_vectors<K, kVectors, kThreads>(share.tensor, at, share.window, row);
}

// Where element `i` of a walk lies in the parameter and in the gradient, in elements, counted from their first.
struct Place {
  long long param;
  long long grad;
};

template <typename Index>
__device__ __forceinline__ Place unravel(const long long* walk, Index i) {
  const long long* const sizes = walk + 1;
  const long long* const param_strides = sizes + kMaxDims;
  const long long* const grad_strides = param_strides + kMaxDims;
  Place place = {0, 0};
#pragma unroll 1
  for (int d = static_cast<int>(walk[0]) - 1; d >= 0; --d) {
    const Index size = static_cast<Index>(sizes[d]);
    const Index rest = i / size;
    const long long at = static_cast<long long>(i - rest * size);
    place.param += at * param_strides[d];
    place.grad += at * grad_strides[d];
    i = rest;
  }
  return place;
}

// Tensors with strides of their own. The states and the master copy lie in the walk's order; parameter and gradient are reached
// through their strides, element by element, kElements of them in flight.
template <typename Rule, typename P, typename G, bool kMaster, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads)
    strided(const long long* table, long long segments, long long chunks, long long chunk, const Working<P>* coefficients) {
  using K = Kind<Rule, P, G, kMaster>;
  using W = Working<P>;
  constexpr int kElements = 4 * kVectors;
  const Chunk<K> share(table, segments, chunks, chunk, coefficients);
  const Tensor<K>& tensor = share.tensor;
  const Row<W> row(share.row);
  // A 64-bit division is a call of a hundred instructions; tensors beyond 32 bits pay for it, the others do not.
  const bool small = share.window.last <= 0xffffffffll;

  for (long long at = share.window.first + threadIdx.x; at < share.window.last; at += kElements * kThreads) {
    Place place[kElements];
    Element<W> e[kElements];
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const long long i = at + k * kThreads;
      if (i >= share.window.last) continue;
      place[k] = small ? unravel(share.walk, static_cast<unsigned>(i)) : unravel(share.walk, static_cast<unsigned long long>(i));
      if constexpr (K::kMaster) {
        e[k].param = get(tensor.master + i);
      } else {
        e[k].param = widen<W>(get(tensor.param + place[k].param));
      }
      e[k].grad = widen<W>(get(tensor.grad + place[k].grad));
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) e[k].state[s] = get(tensor.state[s] + i);
    }
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const long long i = at + k * kThreads;
      if (i >= share.window.last) continue;
      update<K>(e[k], row);
      put(tensor.param + place[k].param, narrow<P>(e[k].param));
      if constexpr (K::kMaster) put(tensor.master + i, e[k].param);
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) put(tensor.state[s] + i, e[k].state[s]);
    }
  }
}

}  // namespace gpu_adam
