// Adam and AMSGrad: the coefficients of a step, and the rule for one element. Its Python text is adam.py; the tests pin the two to each
// other bit by bit.
//
// Kingma and Ba (2014), Algorithm 1; Reddi, Kale and Kumar (2018) for the maximum.

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

struct AdamCoefficients : AdamNumbers {
  // The rule's own coefficients of step t, in float64. w1 and w2 are rounded to the working format before anything follows from them,
  // so that the bias that is corrected is the one that the moments have.
  __device__ static __forceinline__ void coefficients(const double* h, long long t, bool wide, double* row) {
    const double w1 = to_working(1.0 - h[kBeta1], wide);
    const double w2 = to_working(1.0 - h[kBeta2], wide);
    double c1 = 1.0;
    double c2 = 1.0;
    if (h[kBiasCorrection] != 0.0) {
      c1 = 1.0 - power(1.0 - w1, t);
      c2 = 1.0 - power(1.0 - w2, t);
    }
    const double root = sqrt(c2);
    row[kW1] = w1;
    row[kW2] = w2;
    row[kEps] = h[kEpsilon];
    if (h[kEpsHat] != 0.0) {
      row[kR2] = 1.0;
      row[kA] = div(mul(-h[kLr], root), c1);
    } else {
      row[kR2] = div(1.0, root);
      row[kA] = div(-h[kLr], c1);
    }
  }
};

template <bool kAmsgrad>
struct Adam : AdamCoefficients {
  // exp_avg, exp_avg_sq and, with AMSGrad, max_exp_avg_sq.
  static constexpr int kStates = kAmsgrad ? 3 : 2;

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& m = e.state[0];
    W& v = e.state[1];
    m = fma(c[kW1], e.grad, fma(-c[kW1], m, m));
    v = fma(mul(c[kW2], e.grad), e.grad, decayed(c[kW2], v));
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
