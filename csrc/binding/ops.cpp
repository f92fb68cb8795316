// The ops torch.ops.fused_rnn.forward and backward: checks, allocation, and the way from tensors to a backend.
//
// Registered through torch's LibTorch stable ABI, so that one binary serves every torch from the target version on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <string>
#include <tuple>

#include "binding/cell_name.h"
#include "binding/cuda_backend.h"
#include "binding/multiply.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

// What a call has of the variants.
struct Variant {
  OptionalTensor unit_weights;    // [D, K, H]
  OptionalTensor norm;            // [D, N, H]
  OptionalTensor zoneout;         // [T, B, D, states, H]
  OptionalTensor recurrent_mask;  // [D, B, P]
};

// The problem that w_hh [D, G*H, P], w_hr [D, P, H], a [T, B, D, ...] sequence and the variants describe.
Problem describe_problem(const std::string& cell, const Tensor& sequence, const char* sequence_name, const Tensor& w_hh,
                         const OptionalTensor& w_hr, const Variant& variant, DataType type, bool backward) {
  const CellSpec spec = cell_spec(known_cell(cell));
  const Shape shape = shape_of(sequence);
  if (shape.size() < 4 || shape[2] < 1 || shape[2] > 2) {
    fail(std::string(sequence_name) + " must have shape [T, B, D, ...] with D = 1 or 2, got " + to_string(shape));
  }
  const Shape weights = shape_of(w_hh);
  if (weights.size() != 3 || weights[1] < spec.gates || weights[1] % spec.gates != 0 || weights[2] < 1) {
    fail("w_hh must have shape [D, " + std::to_string(spec.gates) + "*H, P], got " + to_string(weights));
  }
  if (w_hr.has_value() && !spec.projectable) fail("w_hr must be None for cell \"" + cell + "\", which cannot project");
  const int64_t hidden_size = weights[1] / spec.gates;
  if (!w_hr.has_value() && weights[2] != hidden_size) {
    fail("w_hh must have shape [D, " + std::to_string(spec.gates) +
         "*H, H] = " + to_string({shape[2], weights[1], hidden_size}) + ", got " + to_string(weights));
  }
  const std::string of_cell = std::string(" for cell \"") + spec.name + "\"";
  if (variant.unit_weights.has_value() != (spec.unit_weights > 0)) {
    fail("unit_weights must be " + std::string(spec.unit_weights > 0 ? "given" : "None") + of_cell);
  }
  if (variant.norm.has_value() && spec.norm_groups == 0) fail("norm must be None" + of_cell);
  if (variant.zoneout.has_value() && w_hr.has_value()) fail("zoneout must be None where there is a w_hr");
  return {.cell = spec,
          .type = type,
          .time_steps = shape[0],
          .batch = shape[1],
          .directions = shape[2],
          .hidden_size = hidden_size,
          .output_size = weights[2],
          .backward = backward,
          .projected = w_hr.has_value(),
          .normalized = variant.norm.has_value(),
          .zoneout = variant.zoneout.has_value(),
          .recurrent_mask = variant.recurrent_mask.has_value()};
}

void check_weights(const Checker& check, const Problem& p, const Tensor& w_hh, const OptionalTensor& w_hr) {
  const int64_t rows = p.cell.gates * p.hidden_size;
  check(w_hh, "w_hh", "[D, G*H, P]", {p.directions, rows, p.output_size});
  check(w_hr, "w_hr", "[D, P, H]", {p.directions, p.output_size, p.hidden_size});
}

// The result owns what the views point to.
Variant set_variant(VariantViews& views, const Checker& check, const Problem& p, const Variant& given) {
  check(given.unit_weights, "unit_weights", "[D, K, H]", {p.directions, p.cell.unit_weights, p.hidden_size});
  check(given.norm, "norm", "[D, N, H]", {p.directions, norm_rows(p.cell), p.hidden_size});
  check(given.zoneout, "zoneout", "[T, B, D, states, H]",
        {p.time_steps, p.batch, p.directions, p.cell.states, p.hidden_size});
  check(given.recurrent_mask, "recurrent_mask", "[D, B, P]", {p.directions, p.batch, p.output_size});
  const Variant dense{with_dense_tail(given.unit_weights, 2), with_dense_tail(given.norm, 2),
                      with_dense_tail(given.zoneout, 3), with_dense_tail(given.recurrent_mask, 2)};
  views = {state_view(dense.unit_weights), state_view(dense.norm), sequence_view(dense.zoneout),
           state_view(dense.recurrent_mask)};
  return dense;
}

// The gate gradients may take the place of what was saved, since an update loads all that it needs of a unit before it
// stores: d_gates first, then what of d_gates_h differs.
void check_exchange(const char* name, const Problem& p, const Tensor& given, const Tensor& dense) {
  if (given.is_cpu() && !is_variant(p) && saved_values(p) == p.cell.gradients() &&
      given.data_ptr() == dense.data_ptr()) {
    return;
  }
  fail(std::string(name) +
       " cannot be written over: that takes a plain recurrence on CPU that saves one value for "
       "each gradient, and contiguous trailing dimensions");
}

ForwardResult forward(CellName name, const Tensor& gates_given, const Tensor& w_hh, const OptionalTensor& b_hh,
                      const OptionalTensor& w_hr, const OptionalTensor& h_0_given, const OptionalTensor& c_0_given,
                      const OptionalTensor& unit_weights, const OptionalTensor& norm,
                      const OptionalTensor& lengths_given, const OptionalTensor& resets, const OptionalTensor& zoneout,
                      const OptionalTensor& recurrent_mask, bool save, bool allow_tf32) {
  const std::string cell = name.take();
  const Checker check(gates_given, "gates");
  const Variant given{unit_weights, norm, zoneout, recurrent_mask};
  Problem p = describe_problem(cell, gates_given, "gates", w_hh, w_hr, given, check.type(), false);
  p.keeps_weights = keeps_weights(p, save);
  check(gates_given, "gates", "[T, B, D, G, H]", {p.time_steps, p.batch, p.directions, p.cell.gates, p.hidden_size});
  check_weights(check, p, w_hh, w_hr);
  check(b_hh, "b_hh", "[D, G*H]", {p.directions, p.cell.gates * p.hidden_size});
  if (p.normalized && b_hh.has_value()) fail("b_hh must be None where there is a norm, which has the biases");
  check_states(check, p, h_0_given, "h_0", c_0_given, "c_0");
  const Tensor gates = with_dense_tail(gates_given, 3);
  const OptionalTensor h_0 = with_dense_tail(h_0_given, 2), c_0 = with_dense_tail(c_0_given, 2);

  const Allocator allocate(gates);
  const ForwardBuffers made(p, allocate, save);
  ForwardViews views;
  const OptionalTensor lengths = set_ragged(views, check, p, lengths_given, resets);
  const Variant variant = set_variant(views.variant, check, p, given);
  views.gates = sequence_view<const void>(gates);
  views.w_hh = weight_view(w_hh);
  views.b_hh = weight_view(b_hh);
  views.w_hr = weight_view(w_hr);
  views.h_0 = state_view(h_0);
  views.c_0 = state_view(c_0);
  made.view(views);
  if (gates.is_cpu()) {
    run_on_cpu(active_cpu_unit().forward, p, views);
  } else {
    run_on_cuda(p, views, allocate, w_hh, w_hr, allow_tf32);
  }
  return made.result();
}

}  // namespace

BackwardResult run_backward(const std::string& cell, const OptionalTensor& d_output_given,
                            const OptionalTensor& d_h_n_given, const OptionalTensor& d_c_n_given,
                            const OptionalTensor& d_cells_given, const Tensor& w_hh, const OptionalTensor& w_hr,
                            const Tensor& output_given, const Tensor& cells_given, const Tensor& saved_given,
                            const OptionalTensor& h_0_given, const OptionalTensor& c_0_given,
                            const OptionalTensor& unit_weights, const OptionalTensor& norm,
                            const OptionalTensor& lengths_given, const OptionalTensor& resets,
                            const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask, bool over_saved,
                            bool allow_tf32, const MakeGradientWork& make_work) {
  const Checker check(output_given, "output");
  const Variant given{unit_weights, norm, zoneout, recurrent_mask};
  const Problem p = describe_problem(cell, output_given, "output", w_hh, w_hr, given, check.type(), true);
  const Shape units{p.time_steps, p.batch, p.directions, p.hidden_size};
  const Shape outputs{p.time_steps, p.batch, p.directions, p.output_size};
  const bool has_c = p.cell.states == 2;
  check(output_given, "output", "[T, B, D, P]", outputs);
  check(d_output_given, "d_output", "[T, B, D, P]", outputs);
  check_weights(check, p, w_hh, w_hr);
  check_states(check, p, h_0_given, "h_0", c_0_given, "c_0");
  check_states(check, p, d_h_n_given, "d_h_n", d_c_n_given, "d_c_n");
  if (has_c) {
    check(cells_given, "cells", "[T, B, D, H]", units);
    check(d_cells_given, "d_cells", "[T, B, D, H]", units);
  }
  check(saved_given, "saved", "[T, B, D, S, H]", {p.time_steps, p.batch, p.directions, saved_values(p), p.hidden_size});
  const OptionalTensor d_output = with_dense_tail(d_output_given, 3), d_cells = with_dense_tail(d_cells_given, 3);
  const OptionalTensor d_h_n = with_dense_tail(d_h_n_given, 2), d_c_n = with_dense_tail(d_c_n_given, 2);
  const OptionalTensor h_0 = with_dense_tail(h_0_given, 2), c_0 = with_dense_tail(c_0_given, 2);
  const Tensor output = with_dense_tail(output_given, 3), cells = with_dense_tail(cells_given, 3);
  const Tensor saved = with_dense_tail(saved_given, 3);
  if (over_saved) check_exchange("saved", p, saved_given, saved);

  const Allocator allocate(output);
  const Shape gates{p.time_steps, p.batch, p.directions, p.cell.gates, p.hidden_size};
  const Tensor d_gates = over_saved ? saved : allocate(true, gates);
  const Tensor d_gates_h = allocate((p.cell.split && !over_saved) || p.normalized, gates);
  const Tensor d_h_0 = allocate(true, {p.directions, p.batch, p.output_size});
  const Tensor d_c_0 = allocate(has_c, {p.directions, p.batch, p.hidden_size});
  const Tensor d_projected = allocate(p.projected, outputs);
  const Tensor d_unit_weights =
      allocate(p.cell.unit_weights > 0, {p.directions, p.batch, p.cell.unit_weights, p.hidden_size});
  const Tensor d_norm = allocate(p.normalized, {p.directions, p.batch, norm_rows(p.cell), p.hidden_size});

  BackwardViews views;
  const OptionalTensor lengths = set_ragged(views, check, p, lengths_given, resets);
  const Variant variant = set_variant(views.variant, check, p, given);
  views.d_output = sequence_view(d_output);
  views.d_h_n = state_view(d_h_n);
  views.d_c_n = state_view(d_c_n);
  views.d_cells = sequence_view(d_cells);
  views.w_hh = weight_view(w_hh);
  views.w_hr = weight_view(w_hr);
  views.output = sequence_view<const void>(output);
  views.cells = sequence_view<const void>(cells);
  views.saved = sequence_view<const void>(saved);
  views.h_0 = state_view(h_0);
  views.c_0 = state_view(c_0);
  views.d_gates = sequence_view<void>(d_gates);
  views.d_gates_h = sequence_view<void>(d_gates_h);
  if (over_saved && p.cell.split) {
    views.first_apart = p.cell.joint_gates;
    views.d_gates_h = views.d_gates;
    views.d_gates_h.data = shifted(views.d_gates.data, (p.cell.gates - p.cell.joint_gates) * p.hidden_size, p.type);
  }
  views.d_h_0 = state_view<void>(d_h_0);
  views.d_c_0 = state_view<void>(d_c_0);
  views.d_projected = sequence_view<void>(d_projected);
  views.d_unit_weights = rows_view(d_unit_weights);
  views.d_norm = rows_view(d_norm);
  if (!output.is_cpu()) {
    run_on_cuda(p, views, allocate, w_hh, w_hr, allow_tf32);
  } else if (make_work) {
    run_with_work(p, views, make_work(d_gates, d_gates_h, d_projected));
  } else {
    run_on_cpu(active_cpu_unit().backward, p, views);
  }
  return {over_saved ? allocate(false, {}) : d_gates, d_gates_h, d_h_0, d_c_0, d_projected, d_unit_weights, d_norm};
}

namespace {

BackwardResult backward(CellName cell, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                        const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& w_hh,
                        const OptionalTensor& w_hr, const Tensor& output, const Tensor& cells, const Tensor& saved,
                        const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& unit_weights,
                        const OptionalTensor& norm, const OptionalTensor& lengths, const OptionalTensor& resets,
                        const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask, bool allow_tf32) {
  return run_backward(cell.take(), d_output, d_h_n, d_c_n, d_cells, w_hh, w_hr, output, cells, saved, h_0, c_0,
                      unit_weights, norm, lengths, resets, zoneout, recurrent_mask, false, allow_tf32);
}

BackwardResult backward_over_saved(CellName name, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                                   const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& w_hh,
                                   const OptionalTensor& w_hr, const Tensor& output, const Tensor& cells,
                                   const Tensor& saved, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                   const OptionalTensor& lengths, const OptionalTensor& resets) {
  const std::string cell = name.take();
  if (cell_spec(known_cell(cell)).split) fail("saved cannot be written over: cell \"" + cell + "\" is split");
  return run_backward(cell, d_output, d_h_n, d_c_n, d_cells, w_hh, w_hr, output, cells, saved, h_0, c_0, std::nullopt,
                      std::nullopt, lengths, resets, std::nullopt, std::nullopt, true, false);
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY(fused_rnn, m) {
  m.def(
      "forward(str cell, Tensor gates, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0, Tensor? c_0,"
      " Tensor? unit_weights, Tensor? norm, Tensor? lengths, Tensor? resets, Tensor? zoneout,"
      " Tensor? recurrent_mask, bool save, bool allow_tf32)"
      " -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved, Tensor hidden)");
  m.def(
      "backward(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor w_hh, Tensor? w_hr,"
      " Tensor output, Tensor cells, Tensor saved, Tensor? h_0, Tensor? c_0, Tensor? unit_weights,"
      " Tensor? norm, Tensor? lengths, Tensor? resets, Tensor? zoneout, Tensor? recurrent_mask, bool allow_tf32)"
      " -> (Tensor d_gates, Tensor d_gates_h, Tensor d_h_0, Tensor d_c_0, Tensor d_projected,"
      " Tensor d_unit_weights, Tensor d_norm)");
  m.def(
      "backward_over_saved(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor w_hh,"
      " Tensor? w_hr, Tensor output, Tensor cells, Tensor(a!) saved, Tensor? h_0, Tensor? c_0, Tensor? lengths,"
      " Tensor? resets)"
      " -> (Tensor d_gates, Tensor d_gates_h, Tensor d_h_0, Tensor d_c_0, Tensor d_projected,"
      " Tensor d_unit_weights, Tensor d_norm)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("backward_over_saved", TORCH_BOX(&fused_rnn::backward_over_saved));
  m.impl("forward", TORCH_BOX(&fused_rnn::forward));
  m.impl("backward", TORCH_BOX(&fused_rnn::backward));
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CUDA, m) {
  m.impl("forward", TORCH_BOX(&fused_rnn::forward));
  m.impl("backward", TORCH_BOX(&fused_rnn::backward));
}
