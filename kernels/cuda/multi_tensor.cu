// Multi-tensor apply: any number of tensors in one launch, by the chunks of a table that stays on the device: a block for each,
// or where the grid is persistent, fewer blocks that take one after the other.

#include "chunk.cuh"

namespace gpu_adam {

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

}  // namespace gpu_adam
