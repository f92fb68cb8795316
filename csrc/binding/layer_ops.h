// The ops layer and layer_backward as functions, which csrc/python calls too: arguments and results as in their schemas
// (layer_op.cpp).
#pragma once

#include <cstdint>
#include <tuple>

#include "binding/cell_name.h"
#include "binding/tensors.h"

namespace fused_rnn {

using LayerResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
using LayerOp = LayerResult(CellName cell, const Tensor& x, const Tensor& w_ih, const OptionalTensor& b_ih,
                            const Tensor& w_hh, const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                            const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& lengths,
                            const OptionalTensor& resets, const OptionalTensor& unit_weights,
                            const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask, int64_t directions,
                            bool save, bool hand_out, bool round_factors, int64_t heads);

using LayerGradientsResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
using LayerBackwardOp = LayerGradientsResult(
    CellName cell, const OptionalTensor& d_output, const OptionalTensor& d_h_n, const OptionalTensor& d_c_n,
    const OptionalTensor& d_cells, const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& w_hr,
    const Tensor& output, const Tensor& cells, const Tensor& saved, const OptionalTensor& hidden,
    const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& lengths, const OptionalTensor& resets,
    const OptionalTensor& unit_weights, const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask,
    bool need_x, bool need_w_ih, bool need_w_hh, bool need_bias, bool need_w_hr, bool round_factors, int64_t heads);

// Without Completed.
struct LayerOps {
  LayerOp* layer;
  LayerBackwardOp* layer_backward;
};

[[gnu::visibility("default")]] const LayerOps& layer_ops();

}  // namespace fused_rnn
