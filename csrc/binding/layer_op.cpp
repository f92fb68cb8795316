// The ops torch.ops.fused_rnn.layer and step: a recurrence that makes its gates of x itself, on CPU, and one step of
// it.
#include "binding/layer_ops.h"

#include <torch/csrc/stable/library.h>

#include "binding/describe.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

void read_layer(ForwardViews& views, Reader& read, const Problem& p, const LayerForwardTensors& given) {
  const int64_t units = p.directions * p.hidden_size;
  const int64_t rows = p.cell.gates * units, recurrent_rows = p.cell.recurrent_gates * units;
  // A single step takes contiguous columns.
  const auto stacked = [&](Given tensor, const char* name, const char* dimensions, const Shape& expected) {
    const int64_t first = is_single_step(p) ? static_cast<int64_t>(expected.size()) - 1 : Reader::kAnyStrides;
    return stacked_view(read.dense(tensor, name, dimensions, expected, first), p.directions);
  };
  views.w_ih = stacked(given.w_ih, "w_ih", "[D*G*H, I]", {rows, p.input_size});
  views.w_hh = stacked(given.w_hh, "w_hh", "[D*R*H, P]", {recurrent_rows, p.output_size});
  views.b_ih = stacked(given.b_ih, "b_ih", "[D*G*H]", {rows});
  views.b_hh = stacked(given.b_hh, "b_hh", "[D*R*H]", {recurrent_rows});
  views.w_hr = stacked(given.w_hr, "w_hr", "[D*P, H]", {p.directions * p.output_size, p.hidden_size});
}

// The elements of a contiguous tensor in another shape and in memory of their own.
Tensor copied(const Tensor& tensor, const Shape& shape) {
  Tensor made = Allocator(tensor)(true, shape);
  if (made.numel() > 0) {
    copy(made.mutable_data_ptr(), tensor.const_data_ptr(), made.numel() * made.element_size(), max_threads());
  }
  return made;
}

// What a layer is to do beside its computation.
struct LayerOptions {
  bool save;      // for a backward pass
  bool hand_out;  // an output [T, B, D*P], no view, for the caller to change; with `save` not the one that is saved
  bool round_factors;  // of float32 GEMMs, where that is faster
  int64_t heads = 1;   // of one direction
};

LayerResult run_layer(const std::string& cell, const LayerForwardTensors& given, int64_t directions,
                      const LayerOptions& options) {
  const auto [save, hand_out, round_factors, heads] = options;
  Reader read(given.x, "x");
  const Extent extent = extent_of_layer(shape_of(given.x), directions * heads, heads);
  Problem p = describe(cell, read.type(), extent, given.w_hh, given.w_hr, given.variant);
  p.keeps_weights = keeps_weights(p, save);
  p.rounds_factors = round_factors;
  ForwardViews views;
  read_layer(views, read, p, given);
  read_rows(views, read, p, given.rows);
  read_variant(views, read, p, given.variant);
  const Tensor& x = *read.dense(given.x, 2);
  if (x.numel() > 0) views.x = {x.const_data_ptr(), x.stride(0), x.stride(1), 0};

  const Allocator allocate(x);
  const ForwardBuffers made(p, allocate, save);
  made.view(views);
  run_forward(p, views, max_threads());
  const Tensor none = Allocator::absent();
  const Shape flat{p.time_steps, p.batch, p.directions * p.output_size};
  const Tensor handed_out = !hand_out ? none : save ? copied(made.output, flat) : reshaped(made.output, flat);
  return {hand_out && !save ? none : made.output, made.h_n, made.c_n, made.cells, made.saved, made.hidden, handed_out};
}

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
LayerResult layer(CellName cell, const Tensor& x, const Tensor& w_ih, const OptionalTensor& b_ih, const Tensor& w_hh,
                  const OptionalTensor& b_hh, const OptionalTensor& w_hr, const OptionalTensor& h_0,
                  const OptionalTensor& c_0, const OptionalTensor& lengths, const OptionalTensor& resets,
                  const OptionalTensor& unit_weights, const OptionalTensor& zoneout,
                  const OptionalTensor& recurrent_mask, int64_t directions, bool save, bool hand_out,
                  bool round_factors, int64_t heads) {
  const VariantTensors variant{unit_weights, kNoTensor, zoneout, recurrent_mask};
  return run_layer(cell.take(), {x, w_ih, b_ih, w_hh, b_hh, w_hr, {h_0, c_0, lengths, resets}, variant}, directions,
                   {save, hand_out, round_factors, heads});
}

// The same for one step, x [B, I] and states [B, H], of which there are only results.
std::tuple<Tensor, Tensor> step(CellName name, const Tensor& x_given, const Tensor& w_ih, const OptionalTensor& b_ih,
                                const Tensor& w_hh, const OptionalTensor& b_hh, const OptionalTensor& h,
                                const OptionalTensor& c) {
  const std::string cell = name.take();
  Reader read(x_given, "x");
  if (x_given.dim() != 2) fail("x must have shape [B, I], got " + to_string(shape_of(x_given)));
  const Extent extent = extent_of_layer({1, x_given.size(0), x_given.size(1)}, 1);
  const Problem p = describe(cell, read.type(), extent, w_hh, kNoTensor);
  const Shape state{p.batch, p.hidden_size};
  const bool has_c = p.cell.states > 1;
  const Shape others{p.batch, p.cell.cell_states() * p.hidden_size};
  if (c.has_value() && !has_c) fail("c must be None for cell \"" + cell + "\", which has no cell state");
  ForwardViews views;
  read_layer(views, read, p, {x_given, w_ih, b_ih, w_hh, b_hh});
  const Tensor& x = *read.dense(x_given, 1);
  if (x.numel() > 0) views.x = {x.const_data_ptr(), 0, x.stride(0), 0};
  const auto rows_of = [&](const OptionalTensor& given, const char* name, const char* dimensions,
                           const Shape& shape) -> StateView<const void> {
    const Tensor* const t = read.dense(given, name, dimensions, shape, 1);
    if (t == nullptr || t->numel() == 0) return {};
    return {t->const_data_ptr(), 0, t->stride(0)};
  };
  views.h_0 = rows_of(h, "h", "[B, H]", state);
  views.c_0 = rows_of(c, "c", "[B, E*H]", others);

  const Allocator allocate(x);
  const Tensor h_n = allocate(true, state), c_n = allocate(has_c, others);
  if (!is_empty(h_n)) views.h_n = {h_n.mutable_data_ptr(), 0, h_n.stride(0)};
  if (!is_empty(c_n)) views.c_n = {c_n.mutable_data_ptr(), 0, c_n.stride(0)};
  run_forward(p, views, max_threads());
  return {h_n, c_n};
}

// Which gradients of a layer are wanted.
struct Needed {
  bool x, w_ih, w_hh, bias, w_hr;
};

// In place: the gate gradients take the place of what was saved.
LayerGradientsResult run_layer_backward(const std::string& cell, const LayerBackwardTensors& given,
                                        const Needed& needed, const BackwardOptions& options) {
  const auto& [x, w_ih, b_ih, w_hh, b_hh, w_hr, rows, variant] = given.layer;
  const Tensor& output = given.output;
  Reader read(x, "x");
  const int64_t directions = output.dim() == 4 ? output.size(2) : options.heads;
  const Extent extent = extent_of_layer(shape_of(x), directions, options.heads);
  const Problem p = describe(cell, read.type(), extent, w_hh, w_hr, variant);
  const int64_t width = directions * p.cell.gates * p.hidden_size;
  const int64_t recurrent_width = directions * p.cell.recurrent_gates * p.hidden_size;
  const bool one_bias = !p.cell.split && p.cell.recurrent_gates == p.cell.gates;  // both have the same gradient
  read(w_ih, "w_ih", "[D*G*H, I]", {width, p.input_size});
  read(w_hr, "w_hr", "[D*P, H]", {directions * p.output_size, p.hidden_size});
  read(output, "output", "[T, B, D, P]", {p.time_steps, p.batch, directions, p.output_size});
  if (needed.w_hr && !p.projected) fail("need_w_hr must be False where there is no w_hr");
  if (p.projected && !given.hidden.has_value()) fail("hidden must be given where there is a w_hr");
  if (p.projected) read(given.hidden, "hidden", "[T, B, D, H]", {p.time_steps, p.batch, directions, p.hidden_size});

  const Allocator allocate(x);
  const Tensor d_x = allocate(needed.x, {p.time_steps, p.batch, p.input_size});
  const Tensor d_w_ih = allocate(needed.w_ih, {width, p.input_size});
  const Tensor d_w_hh = allocate(needed.w_hh, {recurrent_width, p.output_size});
  const Tensor d_b_ih = allocate(needed.bias, {width});
  const Tensor d_b_hh = allocate(needed.bias && !one_bias, {recurrent_width});
  const Tensor d_w_hr = allocate(needed.w_hr, {directions * p.output_size, p.hidden_size});
  const auto data_or_null = [](const Tensor& t) { return is_empty(t) ? nullptr : t.mutable_data_ptr(); };
  const LayerGradientViews layer{.input_size = p.input_size,
                                 .x = read.dense(x, 0)->const_data_ptr(),
                                 .hidden = p.projected ? read.dense(given.hidden, 0)->const_data_ptr() : nullptr,
                                 .w_ih = stacked_view(&w_ih, directions),
                                 .d_x = data_or_null(d_x),
                                 .d_w_ih = data_or_null(d_w_ih),
                                 .d_w_hh = data_or_null(d_w_hh),
                                 .d_b_ih = data_or_null(d_b_ih),
                                 .d_b_hh = data_or_null(d_b_hh),
                                 .d_w_hr = data_or_null(d_w_hr)};
  const auto by_direction = [&](const Tensor& weights) {
    const int64_t rows = weights.size(0) / directions, stride = weights.stride(0);
    return strided(weights, {directions, rows, weights.size(1)}, {rows * stride, stride, weights.stride(1)});
  };
  const Tensor w_hh_apart = by_direction(w_hh);
  const OptionalTensor w_hr_apart = w_hr.has_value() ? OptionalTensor(by_direction(*w_hr)) : std::nullopt;
  const BackwardTensors recurrence{
      given.incoming, output, given.cells, given.saved, {w_hh_apart, w_hr_apart, rows, variant}};
  const BackwardResult found = run_backward(cell, recurrence, options, &layer);
  const Tensor other_bias = one_bias && needed.bias ? copied(d_b_ih, shape_of(d_b_ih)) : d_b_hh;
  return {d_x, d_w_ih, d_w_hh, d_b_ih, other_bias, d_w_hr, std::get<2>(found), std::get<3>(found), std::get<5>(found)};
}

template <bool InPlace>
// NOLINTNEXTLINE(readability-function-size): the schema's arguments
LayerGradientsResult layer_backward(CellName cell, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                                    const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& x,
                                    const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& w_hr,
                                    const Tensor& output, const Tensor& cells, const Tensor& saved,
                                    const OptionalTensor& hidden, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                    const OptionalTensor& lengths, const OptionalTensor& resets,
                                    const OptionalTensor& unit_weights, const OptionalTensor& zoneout,
                                    const OptionalTensor& recurrent_mask, bool need_x, bool need_w_ih, bool need_w_hh,
                                    bool need_bias, bool need_w_hr, bool round_factors, int64_t heads) {
  const VariantTensors variant{unit_weights, kNoTensor, zoneout, recurrent_mask};
  const LayerForwardTensors layer{x, w_ih, kNoTensor, w_hh, kNoTensor, w_hr, {h_0, c_0, lengths, resets}, variant};
  return run_layer_backward(cell.take(), {{d_output, d_h_n, d_c_n, d_cells}, layer, output, cells, saved, hidden},
                            {need_x, need_w_ih, need_w_hh, need_bias, need_w_hr}, {InPlace, round_factors, heads});
}

}  // namespace

const LayerOps& layer_ops() {
  static constexpr LayerOps kOps{&layer, &layer_backward<false>};
  return kOps;
}

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "layer(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0,"
      " Tensor? c_0, Tensor? lengths, Tensor? resets, Tensor? unit_weights, Tensor? zoneout, Tensor? recurrent_mask,"
      " int directions, bool save, bool hand_out, bool round_factors, int heads=1)"
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
           " saved, Tensor? hidden, Tensor? h_0, Tensor? c_0, Tensor? lengths, Tensor? resets, Tensor? unit_weights,"
           " Tensor? zoneout, Tensor? recurrent_mask,"
           " bool need_x, bool need_w_ih, bool need_w_hh, bool need_bias, bool need_w_hr, bool round_factors,"
           " int heads=1)"
           " -> (Tensor d_x, Tensor d_w_ih, Tensor d_w_hh, Tensor d_b_ih, Tensor d_b_hh, Tensor d_w_hr, Tensor d_h_0,"
           " Tensor d_c_0, Tensor d_unit_weights)";
  };
  m.def(backward_schema("layer_backward", "Tensor").c_str());
  m.def(backward_schema("layer_backward_in_place", "Tensor(a!)").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("layer", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::layer>::op));
  m.impl("step", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::step>::op));
  m.impl("layer_backward", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::layer_backward<false>>::op));
  m.impl("layer_backward_in_place", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::layer_backward<true>>::op));
}
