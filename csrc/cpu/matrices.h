// A product of matrices as a caller describes it: C = bias + A B.
#pragma once

#include <cstdint>

#include "core/problem.h"

namespace fused_rnn {

struct MatrixView {  // strides in elements, any
  const void* data;
  int64_t row_stride;
  int64_t column_stride;
};

struct MatrixProduct {
  DataType type;  // float32 or float64
  int64_t rows;
  int64_t columns;
  int64_t depth;     // of the reduction
  MatrixView a;      // [rows, depth]
  MatrixView b;      // [depth, columns]
  const void* bias;  // [columns], contiguous, or null
  void* c;           // [rows, columns], contiguous; written to the end before it is read
};

}  // namespace fused_rnn
