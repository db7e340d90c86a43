// The sum of squares of a leaf, by sixteen neighbouring threads, in the order that prologue.py sets.
//
// Element i of a leaf belongs to accumulator i % 128, and each thread has eight of these: a row of 128 elements is dealt out to the
// threads in vectors, of which each thread gets one of eight 16-bit elements, or two of four elements, or four of two.

#pragma once

#include "abi.cuh"
#include "element.cuh"
#include "stream.cuh"
#include "walk.cuh"

namespace gpu_adam {

constexpr int kOwn = kLeafLanes / kLeafThreads;

// What a thread has of a leaf's sum: one number for each of its vectors of a row, four at most; the others are 0.
struct Columns {
  double sum[4] = {};

  // The sum over the columns of the sixteen threads: those of neighbouring threads first, then a thread's own. All threads of the warp
  // must call.
  __device__ __forceinline__ double total() {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int step = 1; step < kLeafThreads; step *= 2) sum[v] += __shfl_xor_sync(0xffffffffu, sum[v], step, kLeafThreads);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
};

// The accumulators of one thread, for vectors of so many lanes.
template <int kLanes>
struct Squares {
  static constexpr int kVectors = kOwn / kLanes;

  double sum[kVectors][kLanes] = {};

  // Where in a row of 128 elements this thread's vector v begins.
  __device__ static __forceinline__ int place(int v) { return (v * kLeafThreads + static_cast<int>(threadIdx.x % kLeafThreads)) * kLanes; }

  __device__ __forceinline__ void add(int v, int k, double g) { sum[v][k] = fma(g, g, sum[v][k]); }

  __device__ __forceinline__ Columns columns() {
    Columns out;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int step = 1; step < kLanes; step *= 2) {
#pragma unroll
        for (int k = 0; k < kLanes; k += 2 * step) sum[v][k] += sum[v][k + step];
      }
      out.sum[v] = sum[v][0];
    }
    return out;
  }
};

// A leaf whose elements lie one after the other. Eight vectors are asked for before the first is waited for.
template <typename G>
__device__ __forceinline__ Columns measure(const G* leaf, int size) {
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(G));
  using S = Squares<kLanes>;
  constexpr int kRows = 8 / S::kVectors;
  const Stream<const G> stream(leaf);
  const Window window = {0, size};
  S squares;
#pragma unroll 1
  for (int first = 0; first < size; first += kRows * kLeafLanes) {
    Lanes<G, kLanes> vector[kRows][S::kVectors];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < S::kVectors; ++v) stream.template load<Kept>(first + r * kLeafLanes + S::place(v), window, vector[r][v]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < S::kVectors; ++v) {
#pragma unroll
        for (int k = 0; k < kLanes; ++k) squares.add(v, k, widen<double>(vector[r][v].lane[k]));
      }
    }
  }
  return squares.columns();
}

// The elements at these places, or zeros beyond the first `count`. All are asked for before the first is waited for.
template <typename G>
__device__ __forceinline__ void gather(const G* grad, const long long (&place)[kOwn], int count, double (&to)[kOwn]) {
  G element[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) element[k] = k < count ? get<Kept>(grad + place[k]) : G{};
#pragma unroll
  for (int k = 0; k < kOwn; ++k) to[k] = widen<double>(element[k]);
}

// A leaf's share of a table. The table is gpu_adam.plan.tables.MeasureTable: for S gradients kMeasureRows rows of S words; for K leaves the
// K gradients that they are of; and, if any is strided, S walks.
struct Leaf {
  long long pointer;
  long long start;
  int size;
  long long slot;
  long long format;
  Walk<1> walk;

  __device__ __forceinline__ Leaf(const long long* table, long long segments, long long leaves, long long leaf)
      : Leaf(table, segments, leaves, leaf, table[kMeasureRows * segments + leaf]) {}

  __device__ __forceinline__ Columns columns() const {
    switch (format) {
      case kFloat64:
        return measure(reinterpret_cast<const double*>(pointer) + start, size);
      case kFloat32:
        return measure(reinterpret_cast<const float*>(pointer) + start, size);
      case kFloat16:
        return measure(reinterpret_cast<const float16*>(pointer) + start, size);
      case kBfloat16:
        return measure(reinterpret_cast<const bfloat16*>(pointer) + start, size);
      default:
        return strided();
    }
  }

 private:
  __device__ __forceinline__ Leaf(const long long* table, long long segments, long long leaves, long long leaf, long long segment)
      : pointer(table[kPointerRow * segments + segment]),
        start((leaf - table[kFirstLeafRow * segments + segment]) * kLeaf),
        slot(table[kSlotRow * segments + segment] + start / kLeaf),
        format(table[kFormatRow * segments + segment]),
        walk(table + kMeasureRows * segments + leaves + kMeasureWalkWords * segment, table[kSizeRow * segments + segment]) {
    // A gradient that is absent has leaves and no size.
    const long long rest = table[kSizeRow * segments + segment] - start;
    size = rest >= kLeaf ? kLeaf : rest > 0 ? static_cast<int>(rest) : 0;
  }

  // A leaf that is reached through strides, element by element: the threads may as well take eight neighbours each, whatever the format.
  __device__ __forceinline__ Columns strided() const {
    using S = Squares<kOwn>;
    S squares;
#pragma unroll 1
    for (int first = S::place(0); first < size; first += kLeafLanes) {
      long long place[kOwn];
      double g[kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) place[k] = walk.at(start + first + k).of[0];
      switch (format - kStrided) {
        case kFloat64:
          gather(reinterpret_cast<const double*>(pointer), place, size - first, g);
          break;
        case kFloat32:
          gather(reinterpret_cast<const float*>(pointer), place, size - first, g);
          break;
        case kFloat16:
          gather(reinterpret_cast<const float16*>(pointer), place, size - first, g);
          break;
        default:
          gather(reinterpret_cast<const bfloat16*>(pointer), place, size - first, g);
      }
#pragma unroll
      for (int k = 0; k < kOwn; ++k) squares.add(0, k, g[k]);
    }
    return squares.columns();
  }
};

}  // namespace gpu_adam
