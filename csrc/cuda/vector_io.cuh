// How elements lie in memory, in which type they are computed, and where they are: the kernels' side of core/views.h.
#pragma once

#include <type_traits>

#include "core/views.h"
#include "cuda/device_math.cuh"

namespace fused_rnn::cuda {

// Real: states, sums and products of a problem of type T. Value: what the cell is called with.
template <class T>
struct Compute {
  using Real = float;
  using Value = FastFloat;
};
template <>
struct Compute<float> {
  using Real = float;
  using Value = float;
};
template <>
struct Compute<double> {
  using Real = double;
  using Value = double;
};
template <class T>
using RealOf = typename Compute<T>::Real;
template <class T>
using ValueOf = typename Compute<T>::Value;

FUSED_RNN_DEVICE float to_real(float x) { return x; }
FUSED_RNN_DEVICE double to_real(double x) { return x; }
FUSED_RNN_DEVICE float to_real(BFloat16 x) { return to_float(x); }
FUSED_RNN_DEVICE float to_real(Float16 x) { return to_float(x); }

// x as it would be stored.
template <class T>
FUSED_RNN_DEVICE T from_real(RealOf<T> x) {
  if constexpr (std::is_same_v<T, RealOf<T>>) {
    return x;
  } else {
    return round_float(T{}, x);
  }
}

// Two neighbours of a 16-bit type as one word, the first in the low half.
template <class T>
struct Pair {
  uint32_t bits;

  FUSED_RNN_DEVICE static Pair of(T first, T second) {
    return {static_cast<uint32_t>(first.bits) | static_cast<uint32_t>(second.bits) << 16};
  }
  FUSED_RNN_DEVICE static Pair rounded(float first, float second) {
    return of(from_real<T>(first), from_real<T>(second));
  }
  FUSED_RNN_DEVICE T operator[](int i) const { return {static_cast<uint16_t>(i == 0 ? bits : bits >> 16)}; }
};

// An odd hidden size, or a caller's stride, puts every other pair across two words.
FUSED_RNN_DEVICE bool is_whole_word(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 4 == 0; }

// The first `count` (0 to 2, or less for none) of two neighbours, zeros for the rest.
template <class T>
FUSED_RNN_DEVICE Pair<T> load_pair(const T* from, int count) {
  if (count >= 2 && is_whole_word(from)) return {*reinterpret_cast<const uint32_t*>(from)};
  return Pair<T>::of(count > 0 ? from[0] : T{}, count > 1 ? from[1] : T{});
}
template <class T>
FUSED_RNN_DEVICE void store_pair(T* to, Pair<T> pair, int count) {
  if (count >= 2 && is_whole_word(to)) {
    *reinterpret_cast<uint32_t*>(to) = pair.bits;
    return;
  }
  if (count > 0) to[0] = pair[0];
  if (count > 1) to[1] = pair[1];
}

// The first of the trailing elements of a view at (time, row, direction), or of a state at (direction, row).
template <class T, class Void>
FUSED_RNN_DEVICE auto element_at(const SequenceView<Void>& view, int64_t time, int64_t row, int64_t direction) {
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
  return static_cast<Element*>(view.data) + time * view.time_stride + row * view.row_stride +
         direction * view.direction_stride;
}
template <class T, class Void>
FUSED_RNN_DEVICE auto element_at(const StateView<Void>& view, int64_t direction, int64_t row) {
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
  return static_cast<Element*>(view.data) + direction * view.direction_stride + row * view.row_stride;
}
template <class T>
FUSED_RNN_DEVICE T weight_at(const WeightView& view, int64_t direction, int64_t row, int64_t column) {
  return static_cast<const T*>(
      view.data)[direction * view.direction_stride + row * view.row_stride + column * view.column_stride];
}

}  // namespace fused_rnn::cuda
