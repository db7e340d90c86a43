// NAdam: the coefficients of a step, and the rule for one element. Its Python text is nadam.py.
//
// Dozat (2016).

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

struct NAdam : NAdamNumbers {
  // exp_avg and exp_avg_sq.
  static constexpr int kStates = 2;

  // The momenta are multiplied one by one until their product is negligible or they no longer change; the rest is a power of beta1.
  __device__ static __forceinline__ void coefficients(const double* h, long long t, bool wide, double* row) {
    const double w1 = to_working(1.0 - h[kBeta1], wide);
    const double w2 = to_working(1.0 - h[kBeta2], wide);
    const double beta1 = 1.0 - w1;
    double product = 1.0;
    double decay = 1.0;
    long long n = 0;
#pragma unroll 1
    for (; n < t && product > kNegligible && decay > kFaded; ++n) {
      decay = mul(decay, h[kQ]);
      product = mul(product, mul(beta1, 1.0 - mul(0.5, decay)));
    }
    product = mul(product, power(beta1, t - n));
    decay = power(h[kQ], t);
    const double now = mul(beta1, 1.0 - mul(0.5, decay));
    const double later = mul(beta1, 1.0 - mul(0.5, mul(decay, h[kQ])));
    row[kW1] = w1;
    row[kW2] = w2;
    row[kR2] = div(1.0, sqrt(1.0 - power(1.0 - w2, t)));
    row[kEps] = h[kEpsilon];
    row[kAg] = div(mul(-h[kLr], 1.0 - now), 1.0 - product);
    row[kAm] = div(mul(-h[kLr], later), 1.0 - mul(product, later));
    row[kProduct] = product;
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& m = e.state[0];
    W& v = e.state[1];
    m = fma(c[kW1], e.grad, fma(-c[kW1], m, m));
    v = fma(mul(c[kW2], e.grad), e.grad, decayed(c[kW2], v));
    const W d = fma(sqrt(v), c[kR2], c[kEps]);
    W step = fma(c[kAm], m, mul(c[kAg], e.grad));
    // NaN where d is infinite; or NaN, which the quotient is then in any case.
    const W rests = d - d;
    if (rests != rests) step = m - m;
    e.param = e.param + div(step, d);
  }
};

}  // namespace gpu_adam
