// What a step begins with, but for the measuring: decide by the norm, then compute the rows of coefficients. The Python text is
// prologue.py; the tests pin the two to each other bit by bit.

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

// A word that holds a float64.
__device__ __forceinline__ double number(const long long* word) { return __longlong_as_double(*word); }
__device__ __forceinline__ void set_number(long long* word, double value) { *word = __double_as_longlong(value); }

// A number of any format, at an address.
__device__ __forceinline__ double number_at(long long address, long long format) {
  if (format == kFloat64) return *reinterpret_cast<const double*>(address);
  if (format == kFloat32) return *reinterpret_cast<const float*>(address);
  if (format == kFloat16) return widen<double>(*reinterpret_cast<const float16*>(address));
  return widen<double>(*reinterpret_cast<const bfloat16*>(address));
}

// Neither infinity less itself nor a NaN is 0.
__device__ __forceinline__ bool finite(double x) { return x - x == 0.0; }

// The norms, the clip factor, whether to skip, and the loss scale, after the sums of squares are in the control words.
__device__ __forceinline__ void decide(long long* control, const long long* settings) {
  long long* const scaler = reinterpret_cast<long long*>(settings[kScalerAddress]);
  float* const scaler_scale = reinterpret_cast<float*>(scaler);
  double scale = number(settings + kLossScale);
  if (settings[kScaleAddress] != 0) scale = number_at(settings[kScaleAddress], settings[kScaleFormat]);
  if (scaler != nullptr) scale = *scaler_scale;
  bool found = false;
  if (settings[kFoundAddress] != 0) found = number_at(settings[kFoundAddress], settings[kFoundFormat]) != 0.0;

  double clip = 1.0;
  const long long ranges = settings[kRanges];
  for (long long* norm = control + kNorms; norm < control + kNorms + ranges; ++norm) set_number(norm, div(sqrt(number(norm)), scale));
  if (ranges > 0) {
    const double norm = number(control + kNorms);
    const double most = number(settings + kMaxNorm);
    if (finite(most)) {
      clip = div(most, norm + kClipEps);
      // A NaN stays one: without skipping, a step on NaN gives NaN.
      if (clip > 1.0) clip = 1.0;
    }
    set_number(control + kClip, clip);
    if (number(settings + kSkipNonfinite) != 0.0) {
      const double largest = number(settings + kNarrow) != 0.0 ? kLargest<float> : kLargest<double>;
      const double clipped = mul(norm, clip);
      // Nor is it smaller where the norm is infinite, which may be clipped to a NaN, or NaN.
      if (!(mul(clipped, clipped) <= largest)) found = true;
    }
  }
  set_number(control + kFactor, div(clip, scale));
  set_number(control + kSkips, found ? 1.0 : 0.0);
  if (found) ++control[kSkipped];

  if (scaler == nullptr) return;
  long long tracker = scaler[kScalerTracker] + 1;
  if (found) {
    tracker = 0;
    const float smaller = static_cast<float>(mul(scale, number(scaler + kScalerBackoff)));
    // Its inverse must be finite in float32.
    if (mul(static_cast<double>(smaller), static_cast<double>(kLargest<float>)) >= 1.0) *scaler_scale = smaller;
  } else if (tracker == scaler[kScalerInterval]) {
    tracker = 0;
    const float grown = static_cast<float>(mul(scale, number(scaler + kScalerGrowth)));
    if (finite(grown)) *scaler_scale = grown;
  }
  scaler[kScalerTracker] = tracker;
}

// Counts the step of a cohort and computes its row, after `decide`; where the step is skipped or the cohort rests, the row says so.
//
// Args:
//   control, settings: their words.
//   counts: the cohorts' step counts.
//   cohort: its number.
//   singles, doubles: the rows of either working format.
template <typename Rule>
__device__ __forceinline__ void advance(const long long* control, const long long* settings, long long* counts, long long cohort,
                                        float* singles, double* doubles) {
  const long long* const own = settings + kHeaderWords + cohort * kCohortWords;
  const long long* const record = settings + own[kRecordAt];
  const bool wide = number(record + kWide) != 0.0;
  const long long place = own[kRow] * kRowWords;
  if (number(control + kSkips) != 0.0 || own[kRests] != 0) {
    if (wide) {
      doubles[place + kSkip] = 1.0;
    } else {
      singles[place + kSkip] = 1.0f;
    }
    return;
  }

  const long long t = counts[cohort] + 1;
  counts[cohort] = t;
  double h[kRecordWords];
#pragma unroll
  for (int k = 0; k < kRecordWords; ++k) h[k] = number(record + k);
  if (own[kWindow] != 0) {
    // Outside the window its nearest entry counts.
    const long long last = own[kWindowLength] - 1;
    long long entry = t - own[kWindowFirst];
    entry = entry < last ? entry : last;
    entry = entry > 0 ? entry : 0;
    const long long* const scheduled = settings + own[kWindow] + entry * kScheduledWords;
#pragma unroll
    for (int k = 0; k < kScheduledWords; ++k) h[k] = number(scheduled + k);
  }
  if (record[kLrAddress] != 0) h[kLr] = number_at(record[kLrAddress], record[kLrFormat]);

  double row[kRowWords] = {};
  coefficients<Rule>(h, t, number(control + kFactor), wide, row);
  const double largest = wide ? kLargest<double> : kLargest<float>;
#pragma unroll
  for (int k = 0; k < kRowWords; ++k) {
    // What the host knows it refuses; infinity times 0 would be NaN.
    double value = row[k];
    if (value > largest) value = largest;
    if (value < -largest) value = -largest;
    if (wide) {
      doubles[place + k] = value;
    } else {
      singles[place + k] = static_cast<float>(value);
    }
  }
}

}  // namespace gpu_adam
