// How a schedule runs a problem, and the functions of the kernels that do. Without the headers of strings and vectors,
// which take longer to compile than a small kernel.
#pragma once

#include <cstddef>

#include "core/problem.h"
#include "core/views.h"
#include "cuda/persistent_shape.h"
#include "cuda/products.h"
#include "cuda/small_shape.h"

namespace fused_rnn::cuda {

enum class Schedule { kPerStep, kSmallBlock, kOneBlock, kCluster, kGrid };

struct Plan {
  Schedule schedule;
  PersistentShape shape{};     // of one_block, cluster and grid
  SmallShape small{};          // of small_block
  int groups = 0;              // of blocks, in all
  int groups_at_once = 0;      // in one launch
  size_t shared_bytes = 0;     // of a block
  size_t workspace_bytes = 0;  // in global memory
  size_t step_bytes = 0;       // likewise, besides, for each time step

  size_t all_workspace_bytes() const { return workspace_bytes + step_bytes * static_cast<size_t>(shape.time_steps); }
};

// The kernels of one cell for one type.
struct CellKernels {
  void (*forward)(const Problem&, const Plan&, const ForwardViews&, Products&, void* workspace, void* stream);
  void (*backward)(const Problem&, const Plan&, const BackwardViews&, Products&, void* workspace, void* stream);
  size_t (*per_step_bytes)(const Problem&);  // workspace of per_step
  // How many groups of a persistent plan's blocks the current device can hold at once; 0 where there is no kernel.
  int (*resident_groups)(const Problem&, const Plan&);
};

}  // namespace fused_rnn::cuda
