// Copies a weight matrix into the order in which the GEMM reads it, converting to the compute type.
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/simd/terms.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// What to pack: out(group, unit) = sum over (reduction group, index) of element * left operand. Strides in elements.
template <class T>
struct PackSource {
  const T* data;
  int64_t units;         // outputs of each group (gate)
  int64_t group_stride;  // between gates of one unit
  int64_t unit_stride;
  int reduction_groups;
  int64_t reduction_group_stride;
  int64_t reduction_stride;
  int64_t reduction_size;    // of one group
  int64_t reduction_padded;  // of one group in the packed form; the padding is zeros
};

// Interleaves the lower (Half = 0) or upper (Half = 1) halves of a and b.
template <int Half, class Lanes, int... I>
FUSED_RNN_INLINE Lanes zip(Lanes a, Lanes b, std::integer_sequence<int, I...>) {
  constexpr int kLanes = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / 2 + Half * (kLanes / 2) + I % 2 * kLanes)...);
}

// Transposes a square of vectors: each round is a perfect shuffle of all its elements, which rotates the bits of
// (row, column) by one; after log2(lanes) rounds row and column have changed places.
template <class V>
FUSED_RNN_INLINE void transpose(V (&rows)[V::kLanes]) {
  constexpr int kLanes = V::kLanes;
  constexpr auto kIndices = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    V next[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = V(zip<0>(rows[i].parts[0], rows[i + kLanes / 2].parts[0], kIndices));
      next[2 * i + 1] = V(zip<1>(rows[i].parts[0], rows[i + kLanes / 2].parts[0], kIndices));
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// Packs `size` reduction indices of one vector of units, whose lanes begin at lane_at(lane): to[k * to_stride + lane] =
// lane_at(lane)[k], or as many indices side by side as a multiplication takes; the last is filled up with zeros.
template <class T, class W, class LaneAt>
FUSED_RNN_INLINE void pack_transposed(const LaneAt& lane_at, int count, int64_t reduction_stride, int64_t size, W* to,
                                      int64_t to_stride) {
  using V = Vec<RealOf<T>>;
  constexpr int kLanes = V::kLanes, kTerms = Terms<W>::kCount;
  for (int64_t begin = 0; begin < size; begin += kLanes) {
    const int here = static_cast<int>(size - begin < kLanes ? size - begin : kLanes);
    V square[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane >= count) {
        square[lane] = V(0);
        continue;
      }
      const T* from = lane_at(lane) + begin * reduction_stride;
      if (reduction_stride == 1) {
        square[lane] = load<T>(from, here);
      } else {
        T gathered[kLanes] = {};
        for (int k = 0; k < here; ++k) gathered[k] = from[k * reduction_stride];
        square[lane] = Storage<T>::load(gathered);
      }
    }
    transpose(square);  // rows beyond `here` become zeros
    for (int k = 0; k < here; k += kTerms) {
      V terms[kTerms];
      std::copy_n(square + k, kTerms, terms);
      Terms<W>::pack(terms, to + (begin + k) / kTerms * to_stride);
    }
  }
}

// The same where the lanes are at equal distances, such as side by side.
template <class T, class W>
void pack_vector(const T* from, int64_t unit_stride, int count, int64_t reduction_stride, int64_t size, W* to,
                 int64_t to_stride) {
  using V = Vec<RealOf<T>>;
  constexpr int kTerms = Terms<W>::kCount;
  if (unit_stride == 1) {
    for (int64_t k = 0; k < size; k += kTerms) {
      V terms[kTerms] = {load<T>(from + k * reduction_stride, count)};
      for (int i = 1; i < kTerms; ++i) {
        terms[i] = k + i < size ? load<T>(from + (k + i) * reduction_stride, count) : V(0);
      }
      Terms<W>::pack(terms, to + k / kTerms * to_stride);
    }
    return;
  }
  pack_transposed<T>([&](int lane) { return from + lane * unit_stride; }, count, reduction_stride, size, to, to_stride);
}

// Packs one block: [reduction][vector * Groups + group][lanes]; lanes beyond the last unit are zeros.
template <int Groups, int Vectors, class T, class W>
void pack_block(const PackSource<T>& source, int64_t block, W* to) {
  using V = Vec<RealOf<T>>;
  constexpr int kLanes = V::kLanes, kColumns = Groups * Vectors, kTerms = Terms<W>::kCount;
  constexpr int64_t kStride = kColumns * kLanes;
  for (int column = 0; column < kColumns; ++column) {
    const int64_t unit = (block * Vectors + column / Groups) * kLanes;
    const int64_t left = source.units - unit;
    const int count = static_cast<int>(left < 0 ? 0 : (left < kLanes ? left : kLanes));
    for (int group = 0; group < source.reduction_groups; ++group) {
      W* out = to + group * multiplications<W>(source.reduction_padded) * kStride + column * kLanes;
      const int64_t size = count > 0 ? source.reduction_size : 0;
      if (size > 0) {
        const T* from = source.data + (column % Groups) * source.group_stride + unit * source.unit_stride +
                        group * source.reduction_group_stride;
        pack_vector(from, source.unit_stride, count, source.reduction_stride, size, out, kStride);
      }
      for (int64_t k = multiplications<W>(size); k < multiplications<W>(source.reduction_padded); ++k) {
        const V zeros[kTerms] = {};
        Terms<W>::pack(zeros, out + k * kStride);
      }
    }
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
