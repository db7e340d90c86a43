// The conversions to and from 16 bits over whole arrays, for the test that compares them with NumPy's.

#include "element.cuh"

using namespace gpu_adam;

extern "C" void widen_float16(const float16* from, float* to, long long n) {
  for (long long i = 0; i < n; ++i) to[i] = widen<float>(from[i]);
}

extern "C" void widen_bfloat16(const bfloat16* from, float* to, long long n) {
  for (long long i = 0; i < n; ++i) to[i] = widen<float>(from[i]);
}

extern "C" void narrow_float16(const float* from, float16* to, long long n) {
  for (long long i = 0; i < n; ++i) to[i] = narrow<float16>(from[i]);
}

extern "C" void narrow_bfloat16(const float* from, bfloat16* to, long long n) {
  for (long long i = 0; i < n; ++i) to[i] = narrow<bfloat16>(from[i]);
}
