// Streams: the flat arrays that an update reads and writes, 16 bytes at a time wherever their addresses allow it.

#pragma once

#include "abi.cuh"
#include "global.cuh"

namespace gpu_adam {

// The integer that an access of so many bytes moves.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = unsigned long long;
};

// How memory is read and written. All of these say that it is global, which the compiler cannot know of a pointer that came out of a table:
// it would use generic accesses, which look the kind of memory up each time. They also say what the caches should do.

// An update touches each byte once, so its streams leave the cache first, and the network's activations stay.
struct Streamed {
  template <typename T>
  __device__ static __forceinline__ T load(const T* from) {
    return __ldcs(from);
  }

  template <typename T>
  __device__ static __forceinline__ void store(T* to, T value) {
    __stcs(to, value);
  }
};

// The caches are told nothing.
struct Ordinary {
  template <typename T>
  __device__ static __forceinline__ T load(const T* from) {
    return load_global(from);
  }

  template <typename T>
  __device__ static __forceinline__ void store(T* to, T value) {
    store_global(to, value);
  }
};

// Gradients that are measured are read again by the update. Nothing writes them meanwhile.
struct Kept {
  template <typename T>
  __device__ static __forceinline__ T load(const T* from) {
    return __ldg(from);
  }
};

// What an update tells the caches, by the names of gpu_adam.kernels.specialization.Hint: how it accesses its streams, and how it stores the
// parameter. The next forward pass reads that one and nothing else, so where it fits the cache it may be worth keeping.
struct Streaming {
  using Streams = Streamed;
  using Param = Streamed;
};
struct KeepParam {
  using Streams = Streamed;
  using Param = Ordinary;
};
struct Plain {
  using Streams = Ordinary;
  using Param = Ordinary;
};

// One element out of, and into, global memory.

template <typename Access = Streamed, typename T>
__device__ __forceinline__ T get(const T* from) {
  const auto word = Access::load(reinterpret_cast<const typename WordOf<sizeof(T)>::type*>(from));
  T value;
  memcpy(&value, &word, sizeof value);
  return value;
}

template <typename Access = Streamed, typename T>
__device__ __forceinline__ void put(T* to, T value) {
  typename WordOf<sizeof(T)>::type word;
  memcpy(&word, &value, sizeof value);
  Access::store(reinterpret_cast<typename WordOf<sizeof(T)>::type*>(to), word);
}

// The elements that one thread handles together, of one stream.
template <typename T, int kLanes>
struct Lanes {
  static constexpr int kWords = kLanes * static_cast<int>(sizeof(T)) / kVectorBytes;
  static_assert(kWords * kVectorBytes == kLanes * static_cast<int>(sizeof(T)), "lanes must fill 16-byte words");

  alignas(kVectorBytes) T lane[kLanes];
};

// The elements [first, last) that a block may touch.
struct Window {
  long long first;
  long long last;

  __device__ __forceinline__ bool has(long long i) const { return first <= i && i < last; }

  // Whether the vector that begins at i lies inside.
  __device__ __forceinline__ bool covers(long long i, int lanes) const { return first <= i && i + lanes <= last; }
};

// A stream whose vectors begin at multiples of their lanes. Whether these are 16-byte boundaries is decided for each stream by itself
// and is the same for all threads of a row or chunk, so a misaligned gradient costs the gradient's accesses and no other's.
template <typename T>
struct Stream {
  T* base;
  bool aligned;

  __device__ __forceinline__ explicit Stream(T* pointer)
      : base(pointer), aligned(reinterpret_cast<unsigned long long>(pointer) % kVectorBytes == 0) {}

  // Reads the vector at i; lanes outside the window are zero and cost no access.
  template <typename Access = Streamed, typename U, int kLanes>
  __device__ __forceinline__ void load(long long i, const Window& window, Lanes<U, kLanes>& to) const {
    if (aligned && window.covers(i, kLanes)) {
      // Words of 16 bytes by name: compilers do not merge eight 2-byte loads into one.
      constexpr int kWords = Lanes<U, kLanes>::kWords;
      uint4 words[kWords];
#pragma unroll
      for (int k = 0; k < kWords; ++k) words[k] = Access::load(reinterpret_cast<const uint4*>(base + i) + k);
      memcpy(to.lane, words, sizeof words);
    } else {
#pragma unroll
      for (int k = 0; k < kLanes; ++k) to.lane[k] = window.has(i + k) ? get<Access, U>(base + i + k) : U{};
    }
  }

  // Writes the vector at i; lanes outside the window are left alone.
  template <typename Access = Streamed, int kLanes>
  __device__ __forceinline__ void store(long long i, const Window& window, const Lanes<T, kLanes>& from) const {
    if (aligned && window.covers(i, kLanes)) {
      constexpr int kWords = Lanes<T, kLanes>::kWords;
      uint4 words[kWords];
      memcpy(words, from.lane, sizeof words);
#pragma unroll
      for (int k = 0; k < kWords; ++k) Access::store(reinterpret_cast<uint4*>(base + i) + k, words[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kLanes; ++k)
        if (window.has(i + k)) put<Access>(base + i + k, from.lane[k]);
    }
  }
};

}  // namespace gpu_adam
