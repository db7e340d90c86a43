// What all update rules share: a row of coefficients, how it is computed, and what comes before and after the rule itself. The Python text
// is rules/rule.py.

#pragma once

#include "abi.cuh"
#include "element.cuh"

namespace gpu_adam {

// What a rule works on: one element in the working format. State slots that a rule does not keep are never read, nor is an average that
// is not kept.
template <typename W>
struct Element {
  W param;
  W grad;
  W state[kMaxStates];
  W average;
};

// One row of coefficients, read once into registers: the kernels' stores could otherwise force it to be read again.
template <typename W>
struct Row {
  W word[kRowWords];

  __device__ __forceinline__ explicit Row(const W* row) {
#pragma unroll
    for (int k = 0; k < kRowWords; ++k) word[k] = row[k];
  }

  __device__ __forceinline__ W operator[](int k) const { return word[k]; }

  // Whether the step changes nothing: the same for all threads of a block.
  __device__ __forceinline__ bool skips() const { return word[kSkip] != W(0); }
};

// An accumulator of squares less w of it; infinity where it is infinite, where infinity less infinity would be a NaN. Minus infinity, which
// is no sum of squares, becomes one. In float32 infinity less a finite number takes one instruction; a minimum of float64 would take ten.
__device__ __forceinline__ float decayed(float w, float v) { return fma(-w, ::fminf(v, kLargest<float>), v); }
__device__ __forceinline__ double decayed(double w, double v) {
  const double x = fma(-w, v, v);
  return x != x && v > -v ? v : x;
}

// Scales the gradient, then applies weight decay of either kind. All threads of a block take the same branches, which cost nothing
// beside the memory, so one kernel serves all settings.
template <typename W>
__device__ __forceinline__ void scale_and_decay(Element<W>& e, const Row<W>& c) {
  e.grad = mul(c[kScale], e.grad);
  if (c[kL2] != W(0)) e.grad = fma(c[kWeightDecay], e.param, e.grad);
  if (c[kDecoupled] != W(0)) e.param = fma(c[kShrink], e.param, e.param);
}

// Moves the average of the parameters towards the new parameter, after the rule.
template <typename W>
__device__ __forceinline__ void average(Element<W>& e, const Row<W>& c) {
  e.average = fma(c[kAverage], e.param, fma(-c[kAverage], e.average, e.average));
}

// base ** exponent, by repeated squaring from the lowest bit up, so that every machine rounds alike.
__device__ __forceinline__ double power(double base, long long exponent) {
  double result = 1.0;
#pragma unroll 1
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = mul(result, base);
    base = mul(base, base);
  }
  return result;
}

// x rounded to the working format.
__device__ __forceinline__ double to_working(double x, bool wide) { return wide ? x : static_cast<double>(static_cast<float>(x)); }

// Fills a row with the coefficients of step t, in float64, to be rounded once when stored.
//
// Args:
//   h: a record.
//   factor: the clip factor over the loss scale.
//   wide: whether the working format is float64.
template <typename Rule>
__device__ __forceinline__ void coefficients(const double* h, long long t, double factor, bool wide, double* row) {
  const bool decays = h[kDecay] != 0.0;
  const bool decoupled = h[kIsDecoupled] != 0.0;
  row[kScale] = h[kMaximize] != 0.0 ? -factor : factor;
  row[kL2] = decays && !decoupled ? 1.0 : 0.0;
  row[kDecoupled] = decays && decoupled ? 1.0 : 0.0;
  row[kWeightDecay] = h[kDecay];
  row[kShrink] = mul(-h[kLr], h[kDecay]);
  row[kSkip] = 0.0;
  row[kAverage] = 0.0;
  if (h[kAveraging] == kExponentialAverage) {
    const double w = to_working(1.0 - h[kAverageDecay], wide);
    row[kAverage] = div(w, 1.0 - power(1.0 - w, t));
  }
  if (h[kAveraging] == kMeanAverage) row[kAverage] = div(1.0, static_cast<double>(t));
  Rule::coefficients(h, t, wide, row);
}

}  // namespace gpu_adam
