// Walks: the journey over the elements of tensors that have strides of their own.

#pragma once

#include "abi.cuh"

namespace gpu_adam {

// Where an element lies in each of the tensors, in elements, counted from their first.
template <int kTensors>
struct Places {
  long long of[kTensors];
};

// A walk in a table: the number of dimensions, kMaxDims sizes, and for each tensor kMaxDims strides.
template <int kTensors>
struct Walk {
  const long long* words;
  bool small;

  // Args:
  //   walk: its words.
  //   last: no element beyond it will be asked for.
  __device__ __forceinline__ Walk(const long long* walk, long long last) : words(walk), small(last <= 0xffffffffll) {}

  // A 64-bit division is a call of a hundred instructions; tensors beyond 32 bits pay for it, the others do not.
  __device__ __forceinline__ Places<kTensors> at(long long i) const {
    return small ? unravel(static_cast<unsigned>(i)) : unravel(static_cast<unsigned long long>(i));
  }

  template <typename Index>
  __device__ __forceinline__ Places<kTensors> unravel(Index i) const {
    Places<kTensors> places = {};
#pragma unroll 1
    for (int d = static_cast<int>(words[0]) - 1; d >= 0; --d) {
      const Index size = static_cast<Index>(words[1 + d]);
      const Index rest = i / size;
      const long long coordinate = static_cast<long long>(i - rest * size);
#pragma unroll
      for (int k = 0; k < kTensors; ++k) places.of[k] += coordinate * words[1 + (1 + k) * kMaxDims + d];
      i = rest;
    }
    return places;
  }
};

}  // namespace gpu_adam
