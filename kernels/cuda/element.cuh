// The formats that elements are stored in, and the correctly rounded operations that the arithmetic is made of.

#pragma once

#include "abi.cuh"
#include "half.cuh"

namespace gpu_adam {

// 16-bit formats are storage only: widened exactly when loaded, rounded once, to nearest even, when stored.

struct float16 {
  unsigned short bits;
};

struct bfloat16 {
  unsigned short bits;
};

// The format that the arithmetic runs in for parameters of format T: double for double, float for all others.
template <typename T>
struct WorkingOf {
  using type = float;
};
template <>
struct WorkingOf<double> {
  using type = double;
};
template <typename T>
using Working = typename WorkingOf<T>::type;

// The largest finite number of a working format.
template <typename W>
constexpr W kLargest = W();
template <>
constexpr float kLargest<float> = static_cast<float>(kLargestSingle);
template <>
constexpr double kLargest<double> = kLargestDouble;

// widen<W>(x): x in the working format W. Exact, but for a double gradient of a float parameter, which is rounded once.

template <typename W>
__device__ __forceinline__ W widen(double x) {
  return static_cast<W>(x);
}

template <typename W>
__device__ __forceinline__ W widen(float x) {
  return x;
}

template <typename W>
__device__ __forceinline__ W widen(float16 x) {
  return float_from_half(x.bits);
}

template <typename W>
__device__ __forceinline__ W widen(bfloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

// narrow<T>(x): x rounded to the storage format T.

template <typename T>
__device__ __forceinline__ T narrow(Working<T> x) {
  return x;
}

template <>
__device__ __forceinline__ float16 narrow<float16>(float x) {
  return {half_from_float(x)};
}

// In integers, because the instruction for it came with sm_80. Adding half a unit in the last kept place, less one if that place is
// even, carries exactly where rounding to nearest even goes up; the carry past the largest finite number gives infinity.
template <>
__device__ __forceinline__ bfloat16 narrow<bfloat16>(float x) {
  const unsigned bits = __float_as_uint(x);
  const unsigned upper = bits >> 16;
  // A NaN must not be rounded: its payload could carry into infinity or the sign. It stays a NaN, quiet.
  const unsigned rounded = x != x ? upper | 0x40u : (bits + 0x7fffu + (upper & 1u)) >> 16;
  return {static_cast<unsigned short>(rounded)};
}

// Each operation rounded to nearest even, whatever the compiler's flags: intrinsics are never contracted or approximated.

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }

__device__ __forceinline__ float div(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double div(double a, double b) { return __ddiv_rn(a, b); }

__device__ __forceinline__ float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fma(double a, double b, double c) { return __fma_rn(a, b, c); }

__device__ __forceinline__ float abs(float a) { return ::fabsf(a); }
__device__ __forceinline__ double abs(double a) { return ::fabs(a); }

__device__ __forceinline__ float sqrt(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ double sqrt(double a) { return __dsqrt_rn(a); }

}  // namespace gpu_adam
