// The GEMMs that the per_step schedule asks of its caller, who has a library for them.
#pragma once

#include "core/views.h"

namespace fused_rnn::cuda {

enum class Factor {
  kRecurrent,   // forward: from [D, B, P] W_hh^T [P, G*H]; backward: from [D, B, G*H] W_hh [G*H, P]
  kProjection,  // forward: from [D, B, H] W_hr^T [H, P]; backward: from [D, B, P] W_hr [P, H]
};

class Products {
 public:
  virtual ~Products() = default;
  // Each direction with its own matrix, enqueued on the stream of the kernels. Strides may be negative.
  virtual void multiply(Factor factor, const StateView<const void>& from, const StateView<void>& to) = 0;
};

}  // namespace fused_rnn::cuda
