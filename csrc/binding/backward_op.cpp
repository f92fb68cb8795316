// The ops torch.ops.fused_rnn.backward and backward_in_place: the gradients of a recurrence.
#include <torch/csrc/stable/library.h>

#include "binding/cell_name.h"
#include "binding/cuda_backend.h"
#include "binding/describe.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

BackwardResult run_backward(const std::string& cell, const BackwardTensors& given, const BackwardOptions& options,
                            const LayerGradientViews* layer) {
  const auto [in_place, round_factors, heads] = options;
  Reader read(given.output, "output");
  const auto& [w_hh, w_hr, rows, variant] = given.recurrence;
  Problem p = describe(cell, read.type(), extent_of(given.output, "output", heads), w_hh, w_hr, variant);
  p.backward = true;
  p.rounds_factors = round_factors;
  const bool has_c = p.cell.states > 1;
  const int64_t others = p.cell.cell_states() * p.hidden_size;
  const Shape outputs{p.time_steps, p.batch, p.directions, p.output_size};
  const Shape cells{p.time_steps, p.batch, p.directions, others};
  const Shape gates{p.time_steps, p.batch, p.directions, p.cell.gates, p.hidden_size};
  const Shape recurrent_gates{p.time_steps, p.batch, p.directions, p.cell.recurrent_gates, p.hidden_size};
  const auto& [d_output, d_h_n, d_c_n, d_cells] = given.incoming;
  BackwardViews views;
  views.output = read.sequence(given.output, "output", "[T, B, D, P]", outputs);
  views.d_output = read.sequence(d_output, "d_output", "[T, B, D, P]", outputs);
  read_states(read, p, d_h_n, "d_h_n", views.d_h_n, d_c_n, "d_c_n", views.d_c_n);
  if (has_c) views.cells = read.sequence(given.cells, "cells", "[T, B, D, E*H]", cells);
  if (has_c) views.d_cells = read.sequence(d_cells, "d_cells", "[T, B, D, E*H]", cells);
  views.saved = read.sequence(given.saved, "saved", "[T, B, D, S, H]",
                              {p.time_steps, p.batch, p.directions, saved_values(p), p.hidden_size});
  read_recurrence(views, read, p, given.recurrence);
  // The gate gradients may take the place of what was saved, since an update loads all that it needs of a unit before
  // it stores: d_gates first, then what of d_gates_h differs.
  if (in_place && (!given.saved.is_cpu() || p.normalized || p.cell.saved != p.cell.gradients() ||
                   !has_dense_tail(given.saved, layer != nullptr ? 0 : 3))) {
    fail(
        "saved cannot be written over: that takes a recurrence on CPU without norms, whose cell saves one value for "
        "each gradient, "
        "and contiguous trailing dimensions");
  }

  const Allocator allocate(given.output);
  const Tensor d_gates = in_place ? given.saved : allocate(true, gates);
  const Tensor d_gates_h = allocate((p.cell.split && !in_place) || p.normalized, recurrent_gates);
  const Tensor d_h_0 = allocate(true, {p.directions, p.batch, p.output_size});
  const Tensor d_c_0 = allocate(has_c, {p.directions, p.batch, others});
  const Tensor d_projected = allocate(p.projected, outputs);
  const Tensor d_unit_weights =
      allocate(p.cell.unit_weights > 0, {p.directions, p.batch, p.cell.unit_weights, p.hidden_size});
  const Tensor d_norm = allocate(p.normalized, {p.directions, p.batch, norm_rows(p.cell), p.hidden_size});
  views.d_gates = sequence_view<void>(d_gates);
  views.d_gates_h = sequence_view<void>(d_gates_h);
  if (in_place && p.cell.split) {
    views.first_split_gate = p.cell.joint_gates;
    views.d_gates_h = views.d_gates;
    views.d_gates_h.data = shifted(views.d_gates.data, (p.cell.gates - p.cell.joint_gates) * p.hidden_size, p.type);
  }
  views.d_h_0 = state_view<void>(d_h_0);
  views.d_c_0 = state_view<void>(d_c_0);
  views.d_projected = sequence_view<void>(d_projected);
  views.d_unit_weights = rows_view(d_unit_weights);
  views.d_norm = rows_view(d_norm);
  if (!given.output.is_cpu()) {
    run_on_cuda(p, views, allocate, given.recurrence);
  } else if (layer != nullptr) {
    run_backward(p, views, *layer, max_threads());
  } else {
    run_backward(p, views, max_threads());
  }
  return {in_place ? Allocator::absent() : d_gates, d_gates_h, d_h_0, d_c_0, d_projected, d_unit_weights, d_norm};
}

namespace {

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
BackwardResult backward(CellName cell, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                        const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& w_hh,
                        const OptionalTensor& w_hr, const Tensor& output, const Tensor& cells, const Tensor& saved,
                        const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& unit_weights,
                        const OptionalTensor& norm, const OptionalTensor& lengths, const OptionalTensor& resets,
                        const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask, bool round_factors,
                        int64_t heads) {
  const RecurrenceTensors recurrence{
      w_hh, w_hr, {h_0, c_0, lengths, resets}, {unit_weights, norm, zoneout, recurrent_mask}};
  return run_backward(cell.take(), {{d_output, d_h_n, d_c_n, d_cells}, output, cells, saved, recurrence},
                      {false, round_factors, heads});
}

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
BackwardResult backward_in_place(CellName name, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                                 const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& w_hh,
                                 const OptionalTensor& w_hr, const Tensor& output, const Tensor& cells,
                                 const Tensor& saved, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const OptionalTensor& lengths, const OptionalTensor& resets, int64_t heads) {
  const std::string cell = name.take();
  if (known_cell(cell).split) fail("saved cannot be written over: cell \"" + cell + "\" is split");
  const RecurrenceTensors recurrence{w_hh, w_hr, {h_0, c_0, lengths, resets}};
  return run_backward(cell, {{d_output, d_h_n, d_c_n, d_cells}, output, cells, saved, recurrence},
                      {true, false, heads});
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "backward(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor w_hh, Tensor? w_hr,"
      " Tensor output, Tensor cells, Tensor saved, Tensor? h_0, Tensor? c_0, Tensor? unit_weights,"
      " Tensor? norm, Tensor? lengths, Tensor? resets, Tensor? zoneout, Tensor? recurrent_mask, bool round_factors,"
      " int heads=1)"
      " -> (Tensor d_gates, Tensor d_gates_h, Tensor d_h_0, Tensor d_c_0, Tensor d_projected,"
      " Tensor d_unit_weights, Tensor d_norm)");
  m.def(
      "backward_in_place(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor w_hh,"
      " Tensor? w_hr, Tensor output, Tensor cells, Tensor(a!) saved, Tensor? h_0, Tensor? c_0, Tensor? lengths,"
      " Tensor? resets, int heads=1)"
      " -> (Tensor d_gates, Tensor d_gates_h, Tensor d_h_0, Tensor d_c_0, Tensor d_projected,"
      " Tensor d_unit_weights, Tensor d_norm)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("backward", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::backward>::op));
  m.impl("backward_in_place", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::backward_in_place>::op));
}
STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CUDA, m) {
  m.impl("backward", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::backward>::op));
}
