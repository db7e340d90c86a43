// Adam and AMSGrad: the rule, for one element. Its Python text is adam.py; the tests pin the two to each other bit by bit.
//
// Kingma and Ba (2014), Algorithm 1; Reddi, Kale and Kumar (2018) for the maximum.

#pragma once

#include "rules.cuh"

namespace gpu_adam {

template <bool kAmsgrad>
struct Adam {
  // exp_avg, exp_avg_sq and, with AMSGrad, max_exp_avg_sq.
  static constexpr int kStates = kAmsgrad ? 3 : 2;

  enum Own { kW1 = kFirstOwn, kW2, kR2, kEps, kA };

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& m = e.state[0];
    W& v = e.state[1];
    m = fma(c[kW1], e.grad, fma(-c[kW1], m, m));
    v = fma(mul(c[kW2], e.grad), e.grad, fma(-c[kW2], v, v));
    W x = v;
    if constexpr (kAmsgrad) {
      W& largest = e.state[2];
      // Not fmax, which would let a NaN go by: here a NaN on either side remains.
      if (largest > v || largest != largest) x = largest;
      largest = x;
    }
    const W d = fma(sqrt(x), c[kR2], c[kEps]);
    e.param = fma(c[kA], div(m, d), e.param);
  }
};

}  // namespace gpu_adam
