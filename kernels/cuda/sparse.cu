// Sparse gradients, of some rows of a parameter: first the rows that have the same number are summed, then the sums update their rows.

#include "update.cuh"

namespace gpu_adam {

// Threads that a multiprocessor must have registers for. Left to itself NVRTC gives some of these kernels twice what they need, and bounds
// leave it nothing to spill. Each thread has addresses of its own, which takes more registers than one row for a whole block would.
template <typename K>
constexpr int kRowsThreads = sizeof(typename K::Param) == 4 ? 768 : 640;

// The threads that have a row together. A block is cut into tiles of a power of two of threads, so that narrow rows leave no thread of a
// warp without work, and as many rows are on their way at once as memory can answer. No tile waits for another one.
struct Tile {
  // Of the row, among those that are given.
  long long place;
  int thread;
  int threads;

  __device__ __forceinline__ Tile(int block, long long log2_tile) {
    const long long index = static_cast<long long>(blockIdx.x) * block + threadIdx.x;
    place = index >> log2_tile;
    threads = 1 << log2_tile;
    thread = threadIdx.x & (threads - 1);
  }
};

// Updates the rows of a parameter that a gradient has, one tile for each of them.
//
// Args:
//   param ... average: the streams, param and states of the whole parameter, grad of the given rows only, one after the other.
//   width: elements of a row.
//   count: rows of the gradient; the grid has as many tiles.
//   log2_tile: which power of two of threads a tile has: the whole block, or a thread for each of the vectors that a row touches.
//   indices: for each row its number; a negative one is left alone.
//   row: the row of coefficients.
template <typename K>
__global__ void __launch_bounds__(K::kThreads, (kMinBlocks<K, kRowsThreads<K>>))
    rows(typename K::Param* param, const typename K::Grad* grad, typename K::W* state0, typename K::W* state1, typename K::W* state2,
         float* master, typename K::W* average, long long width, long long count, long long log2_tile, const long long* indices,
         const typename K::W* row) {
  const Tile tile(K::kThreads, log2_tile);
  if (tile.place >= count) return;
  const long long number = indices[tile.place];
  const Row<typename K::W> coefficients(row);
  if (number < 0 || coefficients.skips()) return;

  // The tile's first thread has the vector that the row's first element lies in: rows of any width begin anywhere in one. Indices count
  // from the vector of the block's first thread, so that the block's step, which is known when this is compiled, does for every tile: one
  // that is smaller comes to the end of its row at once. A step of its own would take registers that the kernel does not have.
  const long long first = number * width;
  const long long phase =
      (threadIdx.x - tile.thread) * K::kLanes + reinterpret_cast<unsigned long long>(param + first) / sizeof(typename K::Param) % K::kLanes;
  const long long from = first - phase;
  Tensor<K> tensor = {};
  tensor.param = param + from;
  tensor.grad = grad + (tile.place * width - phase);
  typename K::W* const states[kMaxStates] = {state0, state1, state2};
#pragma unroll
  for (int s = 0; s < K::kStates; ++s) tensor.state[s] = states[s] + from;
  if constexpr (K::kHasMaster) tensor.master = master + from;
  if constexpr (K::kHasAverage) tensor.average = average + from;

  const Window window = {phase, phase + width};
  for (long long at = 0; at < window.last; at += K::kStep) update_vectors(tensor, at, window, coefficients);
}

// The end of the run of equal numbers that begins at `first`: by steps that double, since most runs are short, then by halving.
__device__ __forceinline__ long long end_of_run(const long long* ranked, long long first, long long count) {
  const long long number = ranked[first];
  long long inside = first;
  long long step = 1;
  while (inside + step < count && ranked[inside + step] == number) {
    inside += step;
    step *= 2;
  }
  long long outside = inside + step < count ? inside + step : count;
  while (outside - inside > 1) {
    const long long middle = inside + (outside - inside) / 2;
    if (ranked[middle] == number) {
      inside = middle;
    } else {
      outside = middle;
    }
  }
  return outside;
}

// Sums the rows of a gradient that have the same number, one tile for each place that there is room for. The place where a run of equal
// numbers begins gets the sum, in the order in which the rows were given, and the number; all others get zeros and -1.
//
// Args:
//   values: the gradient's rows, one after the other.
//   out: room for `capacity` rows.
//   indices: room for `capacity` numbers.
//   width: elements of a row.
//   count: rows of the gradient.
//   capacity: the grid has as many tiles.
//   order: places of the rows in `values`, by their numbers; rows of equal numbers as they were given.
//   ranked: their numbers in that order.
//   limit: numbers outside [0, limit) are left out.
//   log2_tile: which power of two of threads a tile has.
template <typename V, typename W>
__global__ void __launch_bounds__(kRowThreads)
    coalesce(const V* values, W* out, long long* indices, long long width, long long count, long long capacity, const long long* order,
             const long long* ranked, long long limit, long long log2_tile) {
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(V) < sizeof(W) ? sizeof(V) : sizeof(W));
  // Rows that are asked for at once: the additions wait for each other, the loads need not.
  constexpr int kRows = 8 / Lanes<V, kLanes>::kWords;
  const Tile tile(kRowThreads, log2_tile);
  const long long place = tile.place;
  if (place >= capacity) return;
  long long number = -1;
  if (place < count && (place == 0 || ranked[place - 1] != ranked[place])) number = ranked[place];
  const bool head = 0 <= number && number < limit;
  const long long end = head ? end_of_run(ranked, place, count) : place;
  if (tile.thread == 0) indices[place] = head ? number : -1;

  const Window window = {0, width};
  const Stream<W> sums(out + place * width);
  for (long long i = tile.thread * kLanes; i < width; i += tile.threads * kLanes) {
    Lanes<W, kLanes> sum = {};
    if (head) {
      Lanes<V, kLanes> value;
      Stream<const V>(values + order[place] * width).load(i, window, value);
#pragma unroll
      for (int k = 0; k < kLanes; ++k) sum.lane[k] = widen<W>(value.lane[k]);
    }
    for (long long p = place + 1; p < end; p += kRows) {
      Lanes<V, kLanes> value[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (p + r < end) Stream<const V>(values + order[p + r] * width).load(i, window, value[r]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (p + r >= end) continue;
#pragma unroll
        for (int k = 0; k < kLanes; ++k) sum.lane[k] += widen<W>(value[r].lane[k]);
      }
    }
    sums.store(i, window, sum);
  }
}

}  // namespace gpu_adam
