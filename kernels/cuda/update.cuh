// One thread's share of an update: load some vectors of every stream, apply the rule to each element, store what changed.

#pragma once

#include "rule.cuh"
#include "stream.cuh"

namespace gpu_adam {

// What a kernel is compiled for, the one template argument of each kernel that updates: all that changes the bytes that it moves, and
// nothing that a uniform branch can decide; then its geometry. The Python text is gpu_adam.kernels.specialization.UpdateKernel.
template <typename Rule_, typename Param_, typename Grad_, bool kHasMaster_, bool kHasAverage_, int kThreads_, int kVectors_,
          typename Hint_, bool kPersistent_>
struct Kind {
  using Rule = Rule_;
  using Param = Param_;
  using Grad = Grad_;
  using W = Working<Param>;
  static constexpr bool kHasMaster = kHasMaster_;
  static constexpr bool kHasAverage = kHasAverage_;
  static constexpr int kStates = Rule::kStates;

  static constexpr int kThreads = kThreads_;
  static constexpr int kVectors = kVectors_;
  using Hint = Hint_;
  static constexpr bool kPersistent = kPersistent_;

  template <bool kFirst, typename A, typename B>
  struct Choose {
    using type = A;
  };
  template <typename A, typename B>
  struct Choose<false, A, B> {
    using type = B;
  };
  // What the arithmetic reads the parameter from: the master copy where there is one; the parameter is then only written.
  using Source = typename Choose<kHasMaster, float, Param>::type;

  static_assert(!kHasMaster || sizeof(Param) == 2, "master copies are for 16-bit parameters");

  // As many elements as 16 bytes of the narrowest stream hold; the others take several words for them. No state is narrower than the
  // parameter.
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Param) < sizeof(Grad) ? sizeof(Param) : sizeof(Grad));

  // Elements that a block updates at a time where they lie one after the other.
  static constexpr long long kStep = kThreads * kVectors * kLanes;
};

// Where the elements of one tensor lie. Streams that the kind does not have are null and never touched.
template <typename K>
struct Tensor {
  typename K::Param* param;
  const typename K::Grad* grad;
  typename K::W* state[kMaxStates];
  float* master;
  typename K::W* average;

  __device__ __forceinline__ typename K::Source* source() const {
    if constexpr (K::kHasMaster) {
      return master;
    } else {
      return param;
    }
  }
};

// Blocks that make up kWanted threads, for which a multiprocessor must have registers. Said in threads, so that what a thread may have is
// the same in blocks of any size.
template <typename K, int kWanted>
constexpr int kMinBlocks = kWanted > K::kThreads ? kWanted / K::kThreads : 1;

template <typename K>
__device__ __forceinline__ void update(Element<typename K::W>& e, const Row<typename K::W>& coefficients) {
  scale_and_decay(e, coefficients);
  K::Rule::apply(e, coefficients);
  if constexpr (K::kHasAverage) average(e, coefficients);
}

// Updates this thread's vectors of [at, at + kStep), as far as they lie in the window. Neighbouring threads take neighbouring vectors. All
// loads are issued before the first is waited for: that, and not arithmetic, sets the speed.
template <typename K>
__device__ __forceinline__ void update_vectors(const Tensor<K>& tensor, long long at, const Window& window,
                                               const Row<typename K::W>& coefficients) {
  using W = typename K::W;
  using Streams = typename K::Hint::Streams;
  constexpr int kVectors = K::kVectors;
  constexpr int kLanes = K::kLanes;
  const Stream<typename K::Source> sources(tensor.source());
  const Stream<const typename K::Grad> grads(tensor.grad);
  Lanes<typename K::Source, kLanes> source[kVectors];
  Lanes<typename K::Grad, kLanes> grad[kVectors];
  Lanes<W, kLanes> state[kVectors][K::kStates > 0 ? K::kStates : 1];
  Lanes<W, kLanes> average[K::kHasAverage ? kVectors : 1];

  at += static_cast<long long>(threadIdx.x) * kLanes;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const long long i = at + v * K::kThreads * kLanes;
    sources.template load<Streams>(i, window, source[v]);
    grads.template load<Streams>(i, window, grad[v]);
#pragma unroll
    for (int s = 0; s < K::kStates; ++s) Stream<W>(tensor.state[s]).template load<Streams>(i, window, state[v][s]);
    if constexpr (K::kHasAverage) Stream<W>(tensor.average).template load<Streams>(i, window, average[v]);
  }

#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const long long i = at + v * K::kThreads * kLanes;
    Lanes<typename K::Param, kLanes> param;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      Element<W> e;
      e.param = widen<W>(source[v].lane[k]);
      e.grad = widen<W>(grad[v].lane[k]);
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) e.state[s] = state[v][s].lane[k];
      if constexpr (K::kHasAverage) e.average = average[v].lane[k];
      update<K>(e, coefficients);
      param.lane[k] = narrow<typename K::Param>(e.param);
      if constexpr (K::kHasMaster) source[v].lane[k] = e.param;
#pragma unroll
      for (int s = 0; s < K::kStates; ++s) state[v][s].lane[k] = e.state[s];
      if constexpr (K::kHasAverage) average[v].lane[k] = e.average;
    }
    Stream<typename K::Param>(tensor.param).template store<typename K::Hint::Param>(i, window, param);
    if constexpr (K::kHasMaster) sources.template store<Streams>(i, window, source[v]);
#pragma unroll
    for (int s = 0; s < K::kStates; ++s) Stream<W>(tensor.state[s]).template store<Streams>(i, window, state[v][s]);
    if constexpr (K::kHasAverage) Stream<W>(tensor.average).template store<Streams>(i, window, average[v]);
  }
}

}  // namespace gpu_adam
