// A library with one cell for one type on GPUs: what a generated source includes before its cell.
#pragma once

#include "cells/cell_math.h"
#include "cuda/instantiate.cuh"
#include "cuda/loaded_cells.h"

namespace fused_rnn::cuda {

template <class T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr DataType kType = DataType::kFloat32;
};
template <>
struct TypeOf<double> {
  static constexpr DataType kType = DataType::kFloat64;
};
template <>
struct TypeOf<BFloat16> {
  static constexpr DataType kType = DataType::kBFloat16;
};
template <>
struct TypeOf<Float16> {
  static constexpr DataType kType = DataType::kFloat16;
};

// What the library's function returns.
template <class Cell, class T>
const CellModule& cell_module(const char* sources) {
  static const CellModule module{sources, spec_of<Cell>(0), TypeOf<T>::kType, &kernels_of<Cell, T>()};
  return module;
}

}  // namespace fused_rnn::cuda
