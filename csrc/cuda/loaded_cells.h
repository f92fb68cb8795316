// Cells that were compiled by themselves for GPUs: the libraries they come in (see cell_module.cuh), and their kernels.
#pragma once

#include "cuda/plan.h"

namespace fused_rnn::cuda {

// What a library offers.
struct CellModule {
  const char* sources;  // names what it was compiled from
  CellSpec cell;        // its index is given by the program
  DataType type;
  const CellKernels* kernels;
};

// The one function of a library, and its name.
using CellModuleFunction = const CellModule& (*)();
inline constexpr const char* kCellModuleFunction = "fused_rnn_cuda_cell_module";

// Has the kernels of a loaded cell, whose library stays, for a type; without effect where there are some.
void add_kernels(const CellSpec& cell, DataType type, const CellKernels& kernels);
// Throws std::invalid_argument where there are none.
const CellKernels& loaded_kernels(const CellSpec& cell, DataType type);

}  // namespace fused_rnn::cuda
