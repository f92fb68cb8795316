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
struct Compute<BFloat16> {
  using Real = float;
  using Value = CoarseFloat;
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
FUSED_RNN_DEVICE float to_real(TFloat32 x) { return x.value; }
FUSED_RNN_DEVICE float to_real(BFloat16 x) { return to_float(x); }
FUSED_RNN_DEVICE float to_real(Float16 x) { return to_float(x); }

// x as it would be stored.
template <class T>
FUSED_RNN_DEVICE T from_real(RealOf<T> x) {
  if constexpr (std::is_same_v<T, RealOf<T>>) {
    return x;
  } else if constexpr (std::is_same_v<T, TFloat32>) {
    return {x};
  } else {
    return round_float(T{}, x);
  }
}

// x as a factor of a product.
template <class T>
FUSED_RNN_DEVICE T to_factor(RealOf<T> x) {
  if constexpr (std::is_same_v<T, TFloat32>) {
    return {round_tfloat32(x)};
  } else {
    return from_real<T>(x);
  }
}

template <class View>
FUSED_RNN_HD inline bool has(const View& view) {
  return view.data != nullptr;
}

// One unit of one row, in one head of one direction, which `direction` counts.
struct Element {
  int row, direction, unit;
};

// Where a view has an element at a time. `Index` is the type of times, strides and offsets within one step, since
// 64-bit products are several instructions each: int where all of them stay below 2^31, and the bytes between two steps
// too (offsets_fit). None is negative.
template <class T, class Index, class Void>
FUSED_RNN_DEVICE auto element_at(const SequenceView<Void>& view, Index time, const Element& e) {
  using Pointer = std::conditional_t<std::is_const_v<Void>, const T, T>*;
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>*;
  const Index in_step = static_cast<Index>(e.direction) * static_cast<Index>(view.direction_stride) +
                        static_cast<Index>(e.row) * static_cast<Index>(view.row_stride) + e.unit;
  const Pointer place = static_cast<Pointer>(view.data) + in_step;
  if constexpr (sizeof(Index) == 4) {
    const uint32_t step_bytes = static_cast<uint32_t>(view.time_stride) * static_cast<uint32_t>(sizeof(T));
    return reinterpret_cast<Pointer>(reinterpret_cast<Byte>(place) +
                                     wide_product(static_cast<uint32_t>(time), step_bytes));
  } else {
    return place + time * view.time_stride;
  }
}
template <class T, class Index, class Void>
FUSED_RNN_DEVICE auto element_at(const StateView<Void>& view, const Element& e) {
  using Pointer = std::conditional_t<std::is_const_v<Void>, const T, T>*;
  return static_cast<Pointer>(view.data) +
         (static_cast<Index>(e.direction) * static_cast<Index>(view.direction_stride) +
          static_cast<Index>(e.row) * static_cast<Index>(view.row_stride) + e.unit);
}
template <class T>
FUSED_RNN_DEVICE T weight_at(const WeightView& view, int64_t direction, int64_t row, int64_t column) {
  return static_cast<const T*>(
      view.data)[direction * view.direction_stride + row * view.row_stride + column * view.column_stride];
}

}  // namespace fused_rnn::cuda
