// The prologue: measure the gradients, decide, compute the rows of coefficients, in one launch.

#include "abi.cuh"
#include "measure.cuh"
#include "prologue.cuh"

namespace gpu_adam {

static_assert(kPrologueThreads == kSumLanes, "a thread has an accumulator of the sum over all slots");

// Blocks that a multiprocessor must have registers for: left to itself NVRTC leaves room for two, and with this bound nothing spills.
constexpr int kPrologueBlocks = 3;

// The sum over the slots [first, last), which all threads of the block return. A slot's value is the sum over the sources. Other blocks
// wrote the partial sums, so they are read past the L1 cache, and many at once: there may be millions.
__device__ __forceinline__ double sum_of(const double* partials, long long slots, long long sources, long long first, long long last) {
  constexpr int kFlight = 16;
  __shared__ double sums[kPrologueThreads];
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0.0;
  for (long long at = first + thread; at < last; at += kFlight * kPrologueThreads) {
    double value[kFlight] = {};
    for (long long s = 0; s < sources; ++s) {
#pragma unroll
      for (int k = 0; k < kFlight; ++k) {
        const long long slot = at + k * kPrologueThreads;
        if (slot < last) value[k] += __ldcg(partials + s * slots + slot);
      }
    }
#pragma unroll
    for (int k = 0; k < kFlight; ++k) sum += value[k];
  }

  sums[thread] = sum;
  for (int step = 1; step < kPrologueThreads; step *= 2) {
    __syncthreads();
    if (thread % (2 * step) == 0) sums[thread] += sums[thread + step];
  }
  __syncthreads();
  sum = sums[0];
  // Nobody may begin with the next sum while this one is being read.
  __syncthreads();
  return sum;
}

// Whether this block is the last of the grid to come here; then what all others wrote before is visible to it.
__device__ __forceinline__ bool comes_last(long long* control) {
  __shared__ bool last;
  // The barrier hands what the block wrote to thread 0, its fence hands it on to the device, together with the ticket.
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    // From the grid's last ticket on to 0 again, for the next launch.
    last = atomicInc(reinterpret_cast<unsigned*>(control + kTicket), gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// Args:
//   table, segments, leaves: the gradients that are measured, and how many leaves they have. Sixteen threads sum a leaf, so a block of
//     the grid sums sixteen; where there are none the grid has one block.
//   partials: the slots of each source, one source's after the other's; leaves go to the first.
//   slots, sources: how many.
//   control, settings: their words.
//   counts: the cohorts' step counts.
//   singles, doubles: the rows of either working format.
//   finish: 0 to measure only.
template <typename Rule>
__global__ void __launch_bounds__(kPrologueThreads, kPrologueBlocks)
    prologue(const long long* table, long long segments, long long leaves, double* partials, long long slots, long long sources,
             long long* control, const long long* settings, long long* counts, float* singles, double* doubles, long long finish) {
  const long long thread = static_cast<long long>(blockIdx.x) * kPrologueThreads + threadIdx.x;
  const long long leaf = thread / kLeafThreads;
  Columns columns;
  long long slot = 0;
  if (leaf < leaves) {
    const Leaf share(table, segments, leaves, leaf);
    columns = share.columns();
    slot = share.slot;
  }
  const double sum = columns.total();
  if (leaf < leaves && thread % kLeafThreads == 0) partials[slot] = sum;
  if (finish == 0 || !comes_last(control)) return;

  const long long* const range = settings + settings[kRangesAt];
  for (long long r = 0; r < settings[kRanges]; ++r) {
    const double squares = sum_of(partials, slots, sources, range[2 * r], range[2 * r + 1]);
    if (threadIdx.x == 0) set_number(control + kNorms + r, squares);
  }
  if (threadIdx.x == 0) decide(control, settings);
  __syncthreads();
  for (long long cohort = threadIdx.x; cohort < settings[kCohorts]; cohort += kPrologueThreads)
    advance<Rule>(control, settings, counts, cohort, singles, doubles);
}

}  // namespace gpu_adam
