// The ops torch.ops.fused_rnn.layer and step: a recurrence that makes its gates of x itself, on CPU, and one step of
// it.
#include <torch/csrc/stable/library.h>

#include "binding/cell_name.h"
#include "binding/layer_gradients.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

// The problem of a layer: x [T, B, I], w_hh [D*G*H, P], w_hr [D*P, H].
Problem describe_layer(const std::string& cell, const Shape& input, const Tensor& w_hh, const OptionalTensor& w_hr,
                       DataType type, int64_t directions) {
  const CellSpec spec = cell_spec(known_cell(cell));
  if (spec.unit_weights > 0) fail("layer has no cell \"" + cell + "\"");
  if (w_hr.has_value() && !spec.projectable) fail("w_hr must be None for cell \"" + cell + "\", which cannot project");
  const Shape weights = shape_of(w_hh);
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

void check_gate_weights(const Checker& check, const Problem& p, const Tensor& w_ih, const OptionalTensor& b_ih,
                        const Tensor& w_hh, const OptionalTensor& b_hh) {
  const int64_t rows = p.directions * p.cell.gates * p.hidden_size;
  check(w_ih, "w_ih", "[D*G*H, I]", {rows, p.input_size});
  check(w_hh, "w_hh", "[D*G*H, P]", {rows, p.output_size});
  check(b_ih, "b_ih", "[D*G*H]", {rows});
  check(b_hh, "b_hh", "[D*G*H]", {rows});
}

using LayerResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// With `hand_out` the output is [T, B, D*P], no view, for the caller to change. The backward pass then reads another
// one, which is there with `save`.
LayerResult layer(CellName name, const Tensor& x_given, const Tensor& w_ih, const OptionalTensor& b_ih,
                  const Tensor& w_hh, const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                  const OptionalTensor& h_0_given, const OptionalTensor& c_0_given, const OptionalTensor& lengths_given,
                  const OptionalTensor& resets, int64_t directions, bool save, bool hand_out) {
  const std::string cell = name.take();
  const Checker check(x_given, "x");
  Problem p = describe_layer(cell, shape_of(x_given), w_hh, w_hr, check.type(), directions);
  p.keeps_weights = keeps_weights(p, save);
  check_gate_weights(check, p, w_ih, b_ih, w_hh, b_hh);
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
  run_on_cpu(active_cpu_unit().forward, p, views);
  const Tensor none = allocate(false, {});
  const Shape flat{p.time_steps, p.batch, directions * p.output_size};
  const Tensor handed_out = !hand_out ? none : save ? copied(made.output, flat) : reshaped(made.output, flat);
  return {hand_out && !save ? none : made.output, made.h_n, made.c_n, made.cells, made.saved, made.hidden, handed_out};
}

// The same for one step, x [B, I] and states [B, H], of which there are only results.
std::tuple<Tensor, Tensor> step(CellName name, const Tensor& x_given, const Tensor& w_ih_given,
                                const OptionalTensor& b_ih_given, const Tensor& w_hh_given,
                                const OptionalTensor& b_hh_given, const OptionalTensor& h_given,
                                const OptionalTensor& c_given) {
  const std::string cell = name.take();
  const Checker check(x_given, "x");
  if (x_given.dim() != 2) fail("x must have shape [B, I], got " + to_string(shape_of(x_given)));
  const Shape input{1, x_given.size(0), x_given.size(1)};
  const Problem p = describe_layer(cell, input, w_hh_given, std::nullopt, check.type(), 1);
  check_gate_weights(check, p, w_ih_given, b_ih_given, w_hh_given, b_hh_given);
  const Shape state{p.batch, p.hidden_size};
  const bool has_c = p.cell.states == 2;
  check(h_given, "h", "[B, H]", state);
  if (c_given.has_value() && !has_c) fail("c must be None for cell \"" + cell + "\", which has no cell state");
  check(c_given, "c", "[B, H]", state);
  const Tensor x = with_dense_tail(x_given, 1), w_ih = with_dense_tail(w_ih_given, 1);
  const Tensor w_hh = with_dense_tail(w_hh_given, 1);
  const OptionalTensor b_ih = with_dense_tail(b_ih_given, 0), b_hh = with_dense_tail(b_hh_given, 0);
  const OptionalTensor h = with_dense_tail(h_given, 1), c = with_dense_tail(c_given, 1);

  const Allocator allocate(x);
  const Tensor h_n = allocate(true, state), c_n = allocate(has_c, state);
  ForwardViews views;
  const auto rows_of = [](const OptionalTensor& t) -> StateView<const void> {
    if (!t.has_value() || t->numel() == 0) return {};
    return {t->const_data_ptr(), 0, t->stride(0)};
  };
  if (x.numel() > 0) views.x = {x.const_data_ptr(), 0, x.stride(0), 0};
  views.w_ih = stacked_view(w_ih, 1);
  views.b_ih = stacked_view(b_ih, 1);
  views.w_hh = stacked_view(w_hh, 1);
  views.b_hh = stacked_view(b_hh, 1);
  views.h_0 = rows_of(h);
  views.c_0 = rows_of(c);
  if (h_n.numel() > 0) views.h_n = {h_n.mutable_data_ptr(), 0, h_n.stride(0)};
  if (c_n.numel() > 0) views.c_n = {c_n.mutable_data_ptr(), 0, c_n.stride(0)};
  run_on_cpu(active_cpu_unit().forward, p, views);
  return {h_n, c_n};
}

using LayerGradientsResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Over: the gate gradients take the place of what was saved.
template <bool Over>
LayerGradientsResult layer_backward(CellName name, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                                    const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& x,
                                    const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& w_hr,
                                    const Tensor& output, const Tensor& cells, const Tensor& saved,
                                    const OptionalTensor& hidden, const OptionalTensor& h_0_given,
                                    const OptionalTensor& c_0, const OptionalTensor& lengths_given,
                                    const OptionalTensor& resets, bool need_x, bool need_w_ih, bool need_w_hh,
                                    bool need_bias, bool need_w_hr) {
  const std::string cell = name.take();
  const Checker check(x, "x");
  const int64_t directions = output.dim() == 4 ? output.size(2) : 1;
  const Problem p = describe_layer(cell, shape_of(x), w_hh, w_hr, check.type(), directions);
  const int64_t gate_rows = p.cell.gates * p.hidden_size, width = directions * gate_rows;
  check(w_ih, "w_ih", "[D*G*H, I]", {width, p.input_size});
  check(w_hr, "w_hr", "[D*P, H]", {directions * p.output_size, p.hidden_size});
  check(output, "output", "[T, B, D, P]", {p.time_steps, p.batch, directions, p.output_size});
  check(h_0_given, "h_0", "[D, B, P]", {directions, p.batch, p.output_size});
  if (p.projected && !hidden.has_value()) fail("hidden must be given where there is a w_hr");
  if (p.projected) check(hidden, "hidden", "[T, B, D, H]", {p.time_steps, p.batch, directions, p.hidden_size});
  BackwardViews ragged;
  const OptionalTensor lengths = set_ragged(ragged, check, p, lengths_given, resets);

  const LayerTensors tensors{torch::stable::contiguous(x), w_ih, torch::stable::contiguous(output),
                             with_dense_tail(h_0_given, 2), p.projected ? torch::stable::contiguous(*hidden) : x};
  const Allocator allocate(x);
  LayerGradients::Wanted wanted{{allocate, need_x, {p.time_steps, p.batch, p.input_size}},
                                {allocate, need_w_ih, {width, p.input_size}},
                                {allocate, need_w_hh, {width, p.output_size}},
                                {allocate, need_bias, {width}},
                                {allocate, need_bias && p.cell.split, {width}},
                                {allocate, need_w_hr, {directions * p.output_size, p.hidden_size}}};
  Arena counter(nullptr);
  const LayerGradients counting(p, ragged, tensors, wanted, counter);
  const Workspace workspace({}, counter.used());
  Arena arena(workspace.data());
  const LayerGradients gradients(p, ragged, tensors, wanted, arena);
  gradients.prepare();
  const auto make_work = [&](const Tensor& d_gates, const Tensor& d_gates_h, const Tensor& d_projected) {
    return gradients.work(gate_gradients(p, d_gates, d_gates_h, Over), d_projected);
  };
  const auto by_direction = [&](const Tensor& weights) {
    return torch::stable::view(weights, {directions, weights.size(0) / directions, weights.size(1)});
  };
  const BackwardResult found = run_backward(cell, d_output, d_h_n, d_c_n, d_cells, by_direction(w_hh),
                                            w_hr.has_value() ? OptionalTensor(by_direction(*w_hr)) : std::nullopt,
                                            output, cells, saved, h_0_given, c_0, std::nullopt, std::nullopt,
                                            lengths_given, resets, std::nullopt, std::nullopt, Over, false, make_work);
  const Tensor& d_b_ih = wanted.d_b_ih.tensor();
  const Tensor d_b_hh = p.cell.split ? wanted.d_b_hh.tensor() : copied(d_b_ih, shape_of(d_b_ih));
  return {wanted.d_x.tensor(),    wanted.d_w_ih.tensor(), wanted.d_w_hh.tensor(), wanted.d_b_ih.tensor(), d_b_hh,
          wanted.d_w_hr.tensor(), std::get<2>(found),     std::get<3>(found)};
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "layer(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0,"
      " Tensor? c_0, Tensor? lengths, Tensor? resets, int directions, bool save,"
      " bool hand_out)"
      " -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved, Tensor hidden, Tensor handed_out)");
  m.def(
      "step(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? h, Tensor? c)"
      " -> (Tensor h_n, Tensor c_n)");
  // Two ops, since tools take an argument that a schema says is written for a tensor that is there.
  const auto backward_schema = [](const std::string& name, const std::string& saved) {
    return name +
           "(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor x, Tensor w_ih,"
           " Tensor w_hh, Tensor? w_hr, Tensor output, Tensor cells, " +
           saved +
           " saved, Tensor? hidden, Tensor? h_0, Tensor? c_0, Tensor? lengths, Tensor? resets,"
           " bool need_x, bool need_w_ih, bool need_w_hh, bool need_bias, bool need_w_hr)"
           " -> (Tensor d_x, Tensor d_w_ih, Tensor d_w_hh, Tensor d_b_ih, Tensor d_b_hh, Tensor d_w_hr, Tensor d_h_0,"
           " Tensor d_c_0)";
  };
  m.def(backward_schema("layer_backward", "Tensor").c_str());
  m.def(backward_schema("layer_backward_over_saved", "Tensor(a!)").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("layer", TORCH_BOX(&fused_rnn::layer));
  m.impl("step", TORCH_BOX(&fused_rnn::step));
  m.impl("layer_backward", TORCH_BOX(&fused_rnn::layer_backward<false>));
  m.impl("layer_backward_over_saved", TORCH_BOX(&fused_rnn::layer_backward<true>));
}
