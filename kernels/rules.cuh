// What all update rules share: a row of coefficients, and what comes before the rule itself. The Python text is rules.py.

#pragma once

#include "element.cuh"

namespace gpu_adam {

constexpr int kRowWords = 16;
constexpr int kMaxStates = 3;

// The places of a row that every rule has; a rule's own begin at kFirstOwn.
enum Common { kScale, kL2, kDecoupled, kWeightDecay, kShrink, kFirstOwn };

// What a rule works on: one element in the working format. State slots that a rule does not keep are never read.
template <typename W>
struct Element {
  W param;
  W grad;
  W state[kMaxStates];
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
};

// Scales the gradient, then applies weight decay of either kind. All threads of a block take the same branches, which cost nothing
// beside the memory, so one kernel serves all settings.
template <typename W>
__device__ __forceinline__ void scale_and_decay(Element<W>& e, const Row<W>& c) {
  e.grad = mul(c[kScale], e.grad);
  if (c[kL2] != W(0)) e.grad = fma(c[kWeightDecay], e.param, e.grad);
  if (c[kDecoupled] != W(0)) e.param = fma(c[kShrink], e.param, e.param);
}

}  // namespace gpu_adam
