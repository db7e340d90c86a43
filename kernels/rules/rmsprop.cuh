// RMSProp: the coefficients of a step, and the rule for one element. Its Python text is rmsprop.py.
//
// Tieleman and Hinton (2012, lecture 6.5); centered as in Graves (2013).

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

template <bool kCentered, bool kHasMomentum>
struct RmsProp : RmsPropNumbers {
  // square_avg, then as far as they are kept grad_avg and momentum_buffer.
  static constexpr int kStates = 1 + kCentered + kHasMomentum;

  __device__ static __forceinline__ void coefficients(const double* h, long long, bool, double* row) {
    row[kW] = 1.0 - h[kAlpha];
    row[kEps] = h[kEpsilon];
    row[kMu] = h[kMomentum];
    row[kA] = -h[kLr];
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& v = e.state[0];
    v = fma(mul(c[kW], e.grad), e.grad, decayed(c[kW], v));
    W x = v;
    if constexpr (kCentered) {
      W& m = e.state[1];
      m = fma(c[kW], e.grad, fma(-c[kW], m, m));
      x = fma(-m, m, v);
      if (x < W(0)) x = W(0);
    }
    W step = div(e.grad, sqrt(x) + c[kEps]);
    if constexpr (kHasMomentum) {
      W& b = e.state[1 + kCentered];
      b = fma(c[kMu], b, step);
      step = b;
    }
    e.param = fma(c[kA], step, e.param);
  }
};

}  // namespace gpu_adam
