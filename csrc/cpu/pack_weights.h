// Copies a weight matrix into the order in which the product reads it, converting to the compute type.
#pragma once

#include "cpu/storage.h"

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

  int64_t reduction_length() const { return reduction_groups * reduction_padded; }
};

// Packs one block: [reduction][vector * Groups + group][lanes]; lanes beyond the last unit are zeros.
template <int Groups, int Vectors, class T>
void pack_block(const PackSource<T>& source, int64_t block, RealOf<T>* to) {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  constexpr int kLanes = V::kLanes, kColumns = Groups * Vectors;
  for (int column = 0; column < kColumns; ++column) {
    const int64_t unit = (block * Vectors + column / Groups) * kLanes;
    const int64_t left = source.units - unit;
    const int count = static_cast<int>(left < 0 ? 0 : (left < kLanes ? left : kLanes));
    const T* from_column = source.data + (column % Groups) * source.group_stride + unit * source.unit_stride;
    for (int group = 0; group < source.reduction_groups; ++group) {
      const T* from = from_column + group * source.reduction_group_stride;
      Real* out = to + (group * source.reduction_padded * kColumns + column) * kLanes;
      for (int64_t k = 0; k < source.reduction_padded; ++k) {
        Real* lane_run = out + k * kColumns * kLanes;
        if (count == 0 || k >= source.reduction_size) {
          V(0).store(lane_run);
        } else if (source.unit_stride == 1) {
          load<T>(from + k * source.reduction_stride, count).store(lane_run);
        } else {
          T gathered[kLanes] = {};
          for (int lane = 0; lane < count; ++lane) {
            gathered[lane] = from[k * source.reduction_stride + lane * source.unit_stride];
          }
          Storage<T>::load(gathered).store(lane_run);
        }
      }
    }
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
