// AdaDelta: the coefficients of a step, and the rule for one element. Its Python text is adadelta.py.
//
// Zeiler (2012), Algorithm 1.

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

struct AdaDelta : AdaDeltaNumbers {
  // square_avg and acc_delta.
  static constexpr int kStates = 2;

  __device__ static __forceinline__ void coefficients(const double* h, long long, bool, double* row) {
    row[kW] = 1.0 - h[kRho];
    row[kEps] = h[kEpsilon];
    row[kA] = -h[kLr];
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& v = e.state[0];
    W& u = e.state[1];
    v = fma(mul(c[kW], e.grad), e.grad, decayed(c[kW], v));
    const W x = u + c[kEps];
    // Only infinity and 0 are their own doubles.
    const W size = x + x == x ? W(0) : sqrt(x);
    const W delta = mul(div(size, sqrt(v + c[kEps])), e.grad);
    u = fma(mul(c[kW], delta), delta, decayed(c[kW], u));
    e.param = fma(c[kA], delta, e.param);
  }
};

}  // namespace gpu_adam
