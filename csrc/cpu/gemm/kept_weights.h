// How weights that lie packed from an earlier pass are known to be current: by a copy of what was packed.
//
// A pass compares the rows of a block with their copy, all bits. Where they differ, it copies the rows and packs the
// copy, never the rows themselves. So `packed == pack(copy)` holds whatever other threads write meanwhile, and
// `copy == rows` says that the packed form is current. Zeros are the packed form of zeros: new memory needs no flag.
#pragma once

#include <atomic>
#include <cstring>

#include "cpu/gemm/pack_weights.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Does act(from, to, bytes) to the parts of the block's rows and of their copy until it returns false.
template <int Groups, int Vectors, class T, class Act>
bool for_each_part(const PackSource<T>& source, int64_t block, T* copy, const Act& act) {
  constexpr int64_t kUnits = int64_t{Vectors} * Vec<RealOf<T>>::kLanes;
  const int64_t columns = source.reduction_size, first = block * kUnits;
  const int64_t rows = std::min(kUnits, source.units - first);
  const bool joined = source.unit_stride == columns;  // rows without gaps are one part
  for (int group = 0; group < Groups; ++group) {
    for (int64_t row = 0; row < rows; row += joined ? rows : 1) {
      const T* from = source.data + group * source.group_stride + (first + row) * source.unit_stride;
      T* to = copy + (group * source.units + first + row) * columns;
      if (!act(from, to, static_cast<size_t>((joined ? rows : 1) * columns) * sizeof(T))) return false;
    }
  }
  return true;
}

// pack_block of rows with contiguous columns, left out where `to` has the block already. `copy`, [Groups * units,
// columns], and `to` are as the last pass left them, or zeros. With a null copy nothing is known of `to`, and any
// strides will do. Returns whether it has packed.
template <int Groups, int Vectors, class T, class W>
bool pack_changed_block(const PackSource<T>& source, int64_t block, W* to, T* copy) {
  if (copy == nullptr) {
    pack_block<Groups, Vectors>(source, block, to);
    return true;
  }
  const auto same = [](const T* from, T* kept, size_t bytes) { return std::memcmp(from, kept, bytes) == 0; };
  if (for_each_part<Groups, Vectors>(source, block, copy, same)) return false;
  for_each_part<Groups, Vectors>(source, block, copy, [](const T* from, T* kept, size_t bytes) {
    std::memcpy(static_cast<void*>(kept), from, bytes);
    return true;
  });
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler may not read the rows again instead of the copy
  PackSource<T> copied = source;
  copied.data = copy;
  copied.unit_stride = source.reduction_size;
  copied.group_stride = source.units * source.reduction_size;
  pack_block<Groups, Vectors>(copied, block, to);
  return true;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
