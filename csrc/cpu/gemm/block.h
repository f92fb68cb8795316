// The shape of a block of units: as many as a column of vectors holds, with all their gates.
#pragma once

#include "cpu/gemm/micro_kernel.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// A cell's block shape in this instruction set.
template <int Gates, class Real>
struct Block {
  static constexpr int kVectors = vectors_per_block(Gates);
  static constexpr int kColumns = kVectors * Gates;
  static constexpr int kUnits = kVectors * Vec<Real>::kLanes;

  static constexpr int64_t count(int64_t units) { return (units + kUnits - 1) / kUnits; }
  static constexpr int64_t padded(int64_t units) { return count(units) * kUnits; }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
