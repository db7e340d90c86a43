// AdaMax: the coefficients of a step, and the rule for one element. Its Python text is adamax.py.
//
// Kingma and Ba (2014), Algorithm 2.

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

struct AdaMax : AdaMaxNumbers {
  // exp_avg and exp_inf.
  static constexpr int kStates = 2;

  __device__ static __forceinline__ void coefficients(const double* h, long long t, bool wide, double* row) {
    const double w1 = to_working(1.0 - h[kBeta1], wide);
    row[kW1] = w1;
    row[kB2] = h[kBeta2];
    row[kEps] = h[kEpsilon];
    row[kA] = div(-h[kLr], 1.0 - power(1.0 - w1, t));
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& m = e.state[0];
    W& u = e.state[1];
    m = fma(c[kW1], e.grad, fma(-c[kW1], m, m));
    const W less = mul(c[kB2], u);
    // Not 0 times infinity; a NaN stays one.
    if (less == less) u = less;
    const W size = abs(e.grad) + c[kEps];
    // Not fmax, which would let a NaN go by: here a NaN on either side remains.
    if (size > u || size != size) u = size;
    e.param = fma(c[kA], div(m, u), e.param);
  }
};

}  // namespace gpu_adam
