// Work on matrices as a caller describes it: GEMMs of one matrix with several, C = bias + A B, and sums of its rows.
//
// Sums lie in the type that is computed in, which for half types is float32, until they are complete.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.h"

namespace fused_rnn {

struct MatrixView {  // strides in elements, any
  const void* data;
  int64_t row_stride;
  int64_t column_stride;
};

// One of the matrices that A is multiplied with, and where the result goes.
struct RightFactor {
  int64_t columns;
  MatrixView b = {};                     // [depth, columns]
  const void* const* b_rows = nullptr;   // or where each row of it lies, contiguous; null: zeros
  const void* const* b_masks = nullptr;  // with b_rows: what multiplies each of them, element by element
  const void* bias = nullptr;            // [columns], contiguous, or null
  void* c;                  // [rows, columns], contiguous, of sums; null where `rounded` is all that is needed of it
  bool add = false;         // C += A B instead, after the GEMM before it in a list that has the same C
  void* rounded = nullptr;  // where the complete C goes instead, in the type of A and B
};

// The sums of the rows of a matrix.
struct RowSums {
  void* sums;               // [rows]
  void* rounded = nullptr;  // as above
};

struct MatrixProduct {
  DataType type = DataType::kFloat32;
  bool rounds_factors = false;  // as of a Problem
  int64_t rows;
  int64_t depth;  // of the reduction
  MatrixView a;   // [rows, depth]
  // The columns of A and rows of B that the reduction takes, and no others; null: the first ones. B's rows are then
  // contiguous.
  const int64_t* indices = nullptr;
  const uint8_t* nonzero_rows = nullptr;  // [rows]: the others of A are zeros; null: none is
  std::vector<RightFactor> factors;
  std::vector<RowSums> sums = {};  // of A's rows, which then lie side by side (row_stride 1): the same, here and there
  bool add_sums = false;           // to what is there
};

// Reduction indices that a GEMM takes at once. One of more leaves partial sums in C on the way.
inline constexpr int64_t kPanelDepth = 512;

using MatrixWork = std::vector<MatrixProduct>;

// Work on the gate gradients of a backward pass. of_steps[i] needs those of steps [i * steps, (i + 1) * steps) and is
// done as soon as they are there, while they are still in the caches; the last steps come first.
struct GradientWork {
  int64_t steps = 1;
  std::vector<MatrixWork> of_steps;
  MatrixWork at_end;  // of all steps
};

}  // namespace fused_rnn
