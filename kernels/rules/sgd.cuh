// Stochastic gradient descent with momentum: the coefficients of a step, and the rule for one element. Its Python text is sgd.py.
//
// Polyak (1964); Nesterov (1983) in the form of Sutskever, Martens, Dahl and Hinton (2013).

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

template <bool kHasMomentum>
struct Sgd : SgdNumbers {
  // With momentum, momentum_buffer.
  static constexpr int kStates = kHasMomentum ? 1 : 0;

  __device__ static __forceinline__ void coefficients(const double* h, long long t, bool, double* row) {
    row[kA] = -h[kLr];
    row[kMu] = h[kMomentum];
    row[kD] = t == 1 ? 1.0 : 1.0 - h[kDampening];
    row[kNesterov] = h[kIsNesterov];
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W step = e.grad;
    if constexpr (kHasMomentum) {
      W& b = e.state[0];
      b = fma(c[kD], e.grad, mul(c[kMu], b));
      step = b;
      if (c[kNesterov] != W(0)) step = fma(c[kMu], b, e.grad);
    }
    e.param = fma(c[kA], step, e.param);
  }
};

}  // namespace gpu_adam
