// The two conversions between float16 and float32, one instruction each.
//
// Inline assembly and not cuda_fp16.h: NVRTC finds headers only where a CUDA toolkit is installed, and the wheel needs none. The
// tests that run these kernels on a CPU define this file's guard and bring their own two functions.

#ifndef GPU_ADAM_HALF_CUH
#define GPU_ADAM_HALF_CUH

namespace gpu_adam {

__device__ __forceinline__ float float_from_half(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// To nearest, ties to even; subnormals of float16 are kept.
__device__ __forceinline__ unsigned short half_from_float(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

}  // namespace gpu_adam

#endif  // GPU_ADAM_HALF_CUH
