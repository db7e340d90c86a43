// The table that launches of many tensors go by, chunk by chunk.

#pragma once

#include "abi.cuh"
#include "update.cuh"

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

}  // namespace gpu_adam
