// A library with one cell for one type on GPUs: what a generated source includes before its cell.
#pragma once

#include "cells/cell_math.h"
#include "cuda/instantiate.cuh"
#include "cuda/launch_error.h"
#include "cuda/loaded_cells.h"

namespace fused_rnn::cuda {

// What the library's function returns; `type` is that of T.
template <class Cell, class T>
const CellModule& cell_module(DataType type, const char* sources) {
  static const CellModule module{sources, spec_of<Cell>(0), type, &kernels_of<Cell, T>()};
  return module;
}

}  // namespace fused_rnn::cuda
