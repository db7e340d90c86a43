// Ordinary accesses of global memory. In PTX itself, because the compiler may make four accesses out of one of 16 bytes, and because __ldca
// and __stwb keep an order among a block's accesses that nobody here asks for. The tests that run these kernels on a CPU define this file's
// guard and bring their own functions.

#ifndef GPU_ADAM_GLOBAL_CUH
#define GPU_ADAM_GLOBAL_CUH

namespace gpu_adam {

__device__ __forceinline__ unsigned short load_global(const unsigned short* from) {
  unsigned short word;
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(word) : "l"(from) : "memory");
  return word;
}

__device__ __forceinline__ unsigned load_global(const unsigned* from) {
  unsigned word;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}

__device__ __forceinline__ unsigned long long load_global(const unsigned long long* from) {
  unsigned long long word;
  asm volatile("ld.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}

__device__ __forceinline__ uint4 load_global(const uint4* from) {
  uint4 word;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w) : "l"(from) : "memory");
  return word;
}

__device__ __forceinline__ void store_global(unsigned short* to, unsigned short word) {
  asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(word) : "memory");
}

__device__ __forceinline__ void store_global(unsigned* to, unsigned word) {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

__device__ __forceinline__ void store_global(unsigned long long* to, unsigned long long word) {
  asm volatile("st.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

__device__ __forceinline__ void store_global(uint4* to, uint4 word) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w) : "memory");
}

}  // namespace gpu_adam

#endif  // GPU_ADAM_GLOBAL_CUH
