// Stands in for CUDA, so that g++ compiles the shipped kernels unchanged and a CPU runs them: one thread of one block after the other, or,
// where a kernel has barriers, as in blocks.h. Included before anything else (-include).

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Index3 {
  unsigned x, y, z;
};
inline thread_local Index3 threadIdx, blockIdx, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// ---- Arithmetic: compiled with -ffp-contract=off, the host's operators are the correctly rounded ones that these intrinsics are.

inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- Memory: an access that is not aligned to its own size is an error on a GPU, so it is one here.

inline void require_aligned(const void* pointer, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0) return;
  std::fprintf(stderr, "misaligned access of %zu bytes at %p\n", bytes, pointer);
  std::abort();
}

template <typename T>
inline T __ldcs(const T* from) {
  require_aligned(from, sizeof(T));
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
inline T __ldg(const T* from) {
  return __ldcs(from);
}

template <typename T>
inline T __ldcg(const T* from) {
  return __ldcs(from);
}

template <typename T>
inline void __stcs(T* to, T value) {
  require_aligned(to, sizeof(T));
  std::memcpy(to, &value, sizeof value);
}

// In place of global.cuh, whose functions are inline assembly.

#define GPU_ADAM_GLOBAL_CUH

namespace gpu_adam {

template <typename T>
inline T load_global(const T* from) {
  return __ldcs(from);
}

template <typename T>
inline void store_global(T* to, T value) {
  __stcs(to, value);
}

}  // namespace gpu_adam

// ---- float16, in place of half.cuh, whose two functions are inline assembly.

#define GPU_ADAM_HALF_CUH

namespace gpu_adam {

inline float float_from_half(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent > 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

inline unsigned short half_from_float(float value) {
  const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  unsigned half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65,520, halfway from the largest finite number to the next
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, found by the default rounding, to nearest even
    half = static_cast<unsigned>(std::nearbyint(__uint_as_float(magnitude) * 0x1p24f));
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  }
  return static_cast<unsigned short>(sign | half);
}

}  // namespace gpu_adam

// ---- Launching

namespace stand_in {

template <typename... Parameters, std::size_t... k>
void launch(void (*kernel)(Parameters...), long long grid, int block, void** parameters, std::index_sequence<k...>) {
  gridDim = {static_cast<unsigned>(grid), 1, 1};
  for (long long b = 0; b < grid; ++b) {
    blockIdx = {static_cast<unsigned>(b), 0, 0};
    for (int t = 0; t < block; ++t) {
      threadIdx = {static_cast<unsigned>(t), 0, 0};
      kernel(*static_cast<Parameters*>(parameters[k])...);
    }
  }
}

template <typename... Parameters>
void launch(void (*kernel)(Parameters...), long long grid, int block, void** parameters) {
  launch(kernel, grid, block, parameters, std::index_sequence_for<Parameters...>());
}

}  // namespace stand_in

// A C function that launches one kernel without barriers, with the parameters as cuLaunchKernel takes them: the addresses of their values.
#define STAND_IN_KERNEL(name, ...) \
  extern "C" void name(long long grid, int block, void** parameters) { stand_in::launch(__VA_ARGS__, grid, block, parameters); }

#include "blocks.h"
