// AdaDelta: the coefficients of a step, and the rule for one element. Its Python text is adadelta.py.
//
// Zeiler (2012), Algorithm 1.

#pragma once

#include "rules.cuh"

namespace gpu_adam {

struct AdaDelta {
  enum Own { kW = kFirstOwn, kEps, kA };
  enum OwnSetting { kRho = kOwn0, kEpsilon = kOwnSettings };

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
    v = fma(mul(c[kW], e.grad), e.grad, fma(-c[kW], v, v));
    const W delta = mul(div(sqrt(u + c[kEps]), sqrt(v + c[kEps])), e.grad);
    u = fma(mul(c[kW], delta), delta, fma(-c[kW], u, u));
    e.param = fma(c[kA], delta, e.param);
  }
};

}  // namespace gpu_adam
