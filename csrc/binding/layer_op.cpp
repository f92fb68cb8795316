// The op torch.ops.fused_rnn.layer: a recurrence that makes its gates of x itself, on CPU.
#include <torch/csrc/stable/library.h>

#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

// The problem of a layer: x [T, B, I], w_hh [D*G*H, P], w_hr [D*P, H].
Problem describe_layer(const std::string& cell, const Tensor& x, const Tensor& w_hh, const OptionalTensor& w_hr,
                       DataType type, int64_t directions) {
  const CellSpec spec = cell_spec(known_cell(cell));
  if (spec.unit_weights > 0) fail("layer has no cell \"" + cell + "\"");
  if (w_hr.has_value() && !spec.projectable) fail("w_hr must be None for cell \"" + cell + "\", which cannot project");
  const Shape input = shape_of(x), weights = shape_of(w_hh);
  if (input.size() != 3 || input[2] < 1) fail("x must have shape [T, B, I], got " + to_string(input));
  if (directions < 1 || directions > 2) fail("directions must be 1 or 2, got " + std::to_string(directions));
  const int64_t rows = directions * spec.gates;
  if (weights.size() != 2 || weights[0] < rows || weights[0] % rows != 0 || weights[1] < 1) {
    fail("w_hh must have shape [D*" + std::to_string(spec.gates) + "*H, P], got " + to_string(weights));
  }
  const int64_t hidden_size = weights[0] / rows;
  if (!w_hr.has_value() && weights[1] != hidden_size) {
    fail("w_hh must have shape [D*" + std::to_string(spec.gates) + "*H, H] = " + to_string({weights[0], hidden_size}) +
         ", got " + to_string(weights));
  }
  return {.cell = spec,
          .type = type,
          .time_steps = input[0],
          .batch = input[1],
          .directions = directions,
          .hidden_size = hidden_size,
          .output_size = weights[1],
          .backward = false,
          .projected = w_hr.has_value(),
          .input_size = input[2]};
}

// [D*rows, columns] or [D*rows] as [D, rows, columns].
WeightView stacked_view(const OptionalTensor& tensor, int64_t directions) {
  if (!tensor.has_value() || tensor->numel() == 0) return {};
  const int64_t row_stride = tensor->stride(0);
  return {tensor->const_data_ptr(), tensor->size(0) / directions * row_stride, row_stride,
          tensor->dim() > 1 ? tensor->stride(1) : 0};
}

ForwardResult layer(const std::string& cell, const Tensor& x_given, const Tensor& w_ih, const OptionalTensor& b_ih,
                    const Tensor& w_hh, const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                    const OptionalTensor& h_0_given, const OptionalTensor& c_0_given,
                    const OptionalTensor& lengths_given, const OptionalTensor& resets, int64_t directions, bool save) {
  const Checker check(x_given, "x");
  const Problem p = describe_layer(cell, x_given, w_hh, w_hr, check.type(), directions);
  const int64_t rows = p.directions * p.cell.gates * p.hidden_size;
  check(w_ih, "w_ih", "[D*G*H, I]", {rows, p.input_size});
  check(w_hh, "w_hh", "[D*G*H, P]", {rows, p.output_size});
  check(b_ih, "b_ih", "[D*G*H]", {rows});
  check(b_hh, "b_hh", "[D*G*H]", {rows});
  check(w_hr, "w_hr", "[D*P, H]", {p.directions * p.output_size, p.hidden_size});
  check_states(check, p, h_0_given, "h_0", c_0_given, "c_0");
  const Tensor x = with_dense_tail(x_given, 2);
  const OptionalTensor h_0 = with_dense_tail(h_0_given, 2), c_0 = with_dense_tail(c_0_given, 2);

  const Allocator allocate(x);
  const ForwardBuffers made(p, allocate, save);
  const bool single = is_single_step(p);
  const auto dense = [&](const OptionalTensor& t, int64_t first) { return single ? with_dense_tail(t, first) : t; };
  const OptionalTensor w_x = dense(w_ih, 1), w_h = dense(w_hh, 1), b_x = dense(b_ih, 0), b_h = dense(b_hh, 0);
  ForwardViews views;
  const OptionalTensor lengths = set_ragged(views, check, p, lengths_given, resets);
  if (x.numel() > 0) views.x = {x.const_data_ptr(), x.stride(0), x.stride(1), 0};
  views.w_ih = stacked_view(w_x, directions);
  views.b_ih = stacked_view(b_x, directions);
  views.w_hh = stacked_view(w_h, directions);
  views.b_hh = stacked_view(b_h, directions);
  views.w_hr = stacked_view(w_hr, directions);
  views.h_0 = state_view(h_0);
  views.c_0 = state_view(c_0);
  made.view(views);
  run_on_cpu(active_cpu_unit().forward, p, views, allocate);
  return made.result();
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "layer(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0,"
      " Tensor? c_0, Tensor? lengths, Tensor? resets, int directions, bool save)"
      " -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved, Tensor hidden)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) { m.impl("layer", TORCH_BOX(&fused_rnn::layer)); }
