// The shape of a block of units: as many as a column of vectors holds, with all their gates.
#pragma once

#include "cpu/gemm/micro_kernel.h"
#include "cpu/runtime/plan.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The shape in this instruction set; `Vectors` of units.
template <int Gates, class Real, int Vectors = vectors_per_block(Gates)>
struct Block {
  static constexpr int kVectors = Vectors;
  static constexpr int kColumns = kVectors * Gates;
  static constexpr int kUnits = kVectors * Vec<Real>::kLanes;

  static constexpr int64_t count(int64_t units) { return (units + kUnits - 1) / kUnits; }
  static constexpr int64_t padded(int64_t units) { return count(units) * kUnits; }

  // For a plan; `reduction` and `terms` are those of a Tiling.
  static Tiling tiling(int64_t units, int reduction, int terms = 1) {
    return {.lanes = Vec<Real>::kLanes,
            .block_units = kUnits,
            .columns = kColumns,
            .tile_rows = max_tile_rows(kColumns),
            .reduction = reduction,
            .blocks = count(units),
            .terms = terms};
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
