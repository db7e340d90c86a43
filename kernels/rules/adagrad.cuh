// AdaGrad: the coefficients of a step, and the rule for one element. Its Python text is adagrad.py.
//
// Duchi, Hazan and Singer (2011).

#pragma once

#include "abi.cuh"
#include "rule.cuh"

namespace gpu_adam {

struct AdaGrad : AdaGradNumbers {
  // sum.
  static constexpr int kStates = 1;

  __device__ static __forceinline__ void coefficients(const double* h, long long t, bool, double* row) {
    row[kA] = div(-h[kLr], 1.0 + mul(static_cast<double>(t) - 1.0, h[kLrDecay]));
    row[kEps] = h[kEpsilon];
  }

  template <typename W>
  __device__ static __forceinline__ void apply(Element<W>& e, const Row<W>& c) {
    W& total = e.state[0];
    total = fma(e.grad, e.grad, total);
    e.param = fma(c[kA], div(e.grad, sqrt(total) + c[kEps]), e.param);
  }
};

}  // namespace gpu_adam
