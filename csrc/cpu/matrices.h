// Work on matrices as a caller describes it: products C = bias + A B, and sums of the columns of a matrix.
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

struct MatrixProduct {
  DataType type = DataType::kFloat32;  // or float64
  int64_t rows;
  int64_t columns;
  int64_t depth;               // of the reduction
  MatrixView a;                // [rows, depth]
  MatrixView b;                // [depth, columns]
  const void* bias = nullptr;  // [columns], contiguous, or null
  void* c;                     // [rows, columns], contiguous; written to the end before it is read
  bool add = false;            // C += A B instead, after the product before it in a list that has the same C
};

struct ColumnSums {  // out[j] = sum over i of a[i, j]
  DataType type;     // float32 or float64
  int64_t rows;
  int64_t columns;
  MatrixView a;      // [rows, columns], contiguous rows
  void* out;         // [columns]
  bool add = false;  // to what is there
};

struct MatrixWork {
  std::vector<MatrixProduct> products;
  std::vector<ColumnSums> sums;

  bool empty() const { return products.empty() && sums.empty(); }
};

// Work on the gate gradients of a backward pass. of_steps[i] needs those of steps [i * steps, (i + 1) * steps) and is
// done as soon as they are there, while they are still near; the last steps come first.
struct GradientWork {
  int64_t steps = 1;
  std::vector<MatrixWork> of_steps;
  MatrixWork at_end;  // of all steps
};

}  // namespace fused_rnn
