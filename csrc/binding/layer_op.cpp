// The ops torch.ops.fused_rnn.layer and step: a recurrence that makes its gates of x itself, on CPU, and one step of
// it.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "binding/multiply.h"
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

ForwardResult layer(const std::string& cell, const Tensor& x_given, const Tensor& w_ih, const OptionalTensor& b_ih,
                    const Tensor& w_hh, const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                    const OptionalTensor& h_0_given, const OptionalTensor& c_0_given,
                    const OptionalTensor& lengths_given, const OptionalTensor& resets, int64_t directions, bool save) {
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
  return made.result();
}

// The same for one step, x [B, I] and states [B, H], of which there are only results.
std::tuple<Tensor, Tensor> step(const std::string& cell, const Tensor& x_given, const Tensor& w_ih_given,
                                const OptionalTensor& b_ih_given, const Tensor& w_hh_given,
                                const OptionalTensor& b_hh_given, const OptionalTensor& h_given,
                                const OptionalTensor& c_given) {
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

// The work on the gradients of the gates, from which all others come.
class LayerGradients {
 public:
  // Some neighbouring gates: [T*B, D, gates*H] with strides.
  struct Gates {
    int64_t first, count;  // gates
    const void* data;
    int64_t row_stride, direction_stride;
  };

  // What is wanted of it: tensors, or empty ones.
  struct Wanted {
    Tensor d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh;
  };

  // `of_h` has the gates of h in pieces.
  LayerGradients(const Problem& p, const Gates& of_x, std::vector<Gates> of_h, const Wanted& wanted)
      : p_(p), of_x_(of_x), of_h_(std::move(of_h)), wanted_(wanted) {}

  // The sums over all steps are made a few steps at a time. With two directions, of which one is at the end of the
  // sequence when the other is at its beginning, all at once.
  GradientWork work(const Tensor& x, const Tensor& w_ih, const Tensor& output, const OptionalTensor& h_0) const {
    GradientWork work;
    work.steps = p_.directions == 1 ? steps_together() : std::max<int64_t>(p_.time_steps, 1);
    for (int64_t begin = 0; begin < p_.time_steps || begin == 0; begin += work.steps) {
      const Steps steps{begin, std::min(begin + work.steps, p_.time_steps)};
      // With a single round the threads need not meet before the end.
      MatrixWork& some = work.steps >= p_.time_steps ? work.at_end : work.of_steps.emplace_back();
      input_weights(some, steps, x);
      recurrent_weights(some, steps, output, h_0);
      if (wanted_.d_b_ih.numel() > 0) sum(some, steps, of_x_, wanted_.d_b_ih);
      if (wanted_.d_b_hh.numel() > 0) {
        for (const Gates& gates : of_h_) sum(some, steps, gates, wanted_.d_b_hh);
      }
    }
    input(work.at_end, w_ih);
    return work;
  }

 private:
  struct Steps {
    int64_t begin, end;
  };
  struct Rows {
    int64_t first, count;
  };

  // Steps whose gate gradients stay near until they are used, and so many that the sums, which are read and written
  // once for each round of steps, do not cost more than that saves.
  int64_t steps_together() const {
    constexpr int64_t kBytes = 512 * 1024, kLeastRows = 256, kMostRows = 1024;
    const int64_t row_bytes = p_.cell.gates * p_.hidden_size * element_size(p_.type);
    const int64_t rows = std::clamp(kBytes / row_bytes, kLeastRows, kMostRows);
    const int64_t rounds = std::max<int64_t>(p_.time_steps * p_.batch / rows, 1);
    return std::max<int64_t>((p_.time_steps + rounds - 1) / rounds, 1);
  }

  Rows rows_of(const Steps& steps) const { return {steps.begin * p_.batch, (steps.end - steps.begin) * p_.batch}; }

  // Whether sums were begun by later steps.
  bool continues(const Steps& steps) const { return steps.end < p_.time_steps; }

  void input(MatrixWork& work, const Tensor& w_ih) const {
    if (wanted_.d_x.numel() == 0) return;
    const int64_t size = p_.cell.gates * p_.hidden_size;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const void* w = shifted(w_ih.const_data_ptr(), d * size * w_ih.stride(0), p_.type);
      work.products.push_back({.type = p_.type,
                               .rows = p_.time_steps * p_.batch,
                               .columns = p_.input_size,
                               .depth = size,
                               .a = {of_direction(of_x_, d), of_x_.row_stride, 1},
                               .b = {w, w_ih.stride(0), w_ih.stride(1)},
                               .c = wanted_.d_x.mutable_data_ptr(),
                               .add = d > 0});
    }
  }

  void input_weights(MatrixWork& work, const Steps& steps, const Tensor& x) const {
    if (wanted_.d_w_ih.numel() == 0) return;
    const Rows rows = rows_of(steps);
    const void* x_rows = shifted(x.const_data_ptr(), rows.first * p_.input_size, p_.type);
    for (int64_t d = 0; d < p_.directions; ++d) {
      outer(work, of_x_, d, rows, {x_rows, p_.input_size, 1}, wanted_.d_w_ih, continues(steps));
    }
  }

  // Sums over t of d_gates[t]^T h[t - 1], where h[t - 1] is the output one step before in the direction's order. The
  // reverse direction has all steps at once.
  void recurrent_weights(MatrixWork& work, const Steps& steps, const Tensor& output, const OptionalTensor& h_0) const {
    if (wanted_.d_w_hh.numel() == 0) return;
    const int64_t width = p_.directions * p_.output_size;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const int64_t first = d == 0 ? 0 : p_.time_steps - 1;  // step in that order
      const bool has_first = p_.time_steps > 0 && steps.begin <= first && first < steps.end;
      Rows after = rows_of(steps);
      if (has_first) after.count -= p_.batch;
      if (has_first && d == 0) after.first += p_.batch;
      const int64_t before = after.first + (d == 0 ? -p_.batch : p_.batch);
      const MatrixView h{shifted(output.const_data_ptr(), before * width + d * p_.output_size, p_.type), width, 1};
      for (const Gates& gates : of_h_) {
        outer(work, gates, d, after, h, wanted_.d_w_hh, continues(steps));
        if (!h_0.has_value() || !has_first) continue;
        const void* state = shifted(h_0->const_data_ptr(), d * h_0->stride(0), p_.type);
        outer(work, gates, d, {first * p_.batch, p_.batch}, {state, h_0->stride(1), 1}, wanted_.d_w_hh, true);
      }
    }
  }

  const void* of_direction(const Gates& gates, int64_t d) const {
    return shifted(gates.data, d * gates.direction_stride, p_.type);
  }

  // Where the gradients [D*G*H, columns] of some gates begin.
  void* rows_of(const Tensor& gradient, const Gates& gates, int64_t d, int64_t columns) const {
    const int64_t row = (d * p_.cell.gates + gates.first) * p_.hidden_size;
    return shifted(gradient.mutable_data_ptr(), row * columns, p_.type);
  }

  // gradient = gates[rows]^T b, or more of it, for the rows of the gradient that are those of the gates.
  void outer(MatrixWork& work, const Gates& gates, int64_t d, Rows rows, MatrixView b, const Tensor& gradient,
             bool add) const {
    const int64_t columns = gradient.size(1);
    if (add && rows.count == 0) return;
    work.products.push_back(
        {.type = p_.type,
         .rows = gates.count * p_.hidden_size,
         .columns = columns,
         .depth = rows.count,
         .a = {shifted(of_direction(gates, d), rows.first * gates.row_stride, p_.type), 1, gates.row_stride},
         .b = b,
         .c = rows_of(gradient, gates, d, columns),
         .add = add});
  }

  void sum(MatrixWork& work, const Steps& steps, const Gates& gates, const Tensor& gradient) const {
    const Rows rows = rows_of(steps);
    for (int64_t d = 0; d < p_.directions; ++d) {
      const void* first = shifted(of_direction(gates, d), rows.first * gates.row_stride, p_.type);
      work.sums.push_back({.type = p_.type,
                           .rows = rows.count,
                           .columns = gates.count * p_.hidden_size,
                           .a = {first, gates.row_stride, 1},
                           .out = rows_of(gradient, gates, d, 1),
                           .add = continues(steps)});
    }
  }

  const Problem& p_;
  Gates of_x_;
  std::vector<Gates> of_h_;
  const Wanted& wanted_;
};

// Where the backward pass leaves the gradients of the gates; see check_exchange for those that are written `over`.
LayerGradients gradients_of(const Problem& p, const Tensor& d_gates, const Tensor& d_gates_h, bool over,
                            const LayerGradients::Wanted& wanted) {
  const int64_t gates = p.cell.gates, joint = p.cell.joint_gates;
  const auto view = [&](const Tensor& tensor, int64_t values, int64_t at, int64_t first,
                        int64_t count) -> LayerGradients::Gates {
    const int64_t width = values * p.hidden_size;
    return {first, count, shifted(tensor.const_data_ptr(), at * p.hidden_size, p.type), p.directions * width, width};
  };
  if (!over) {
    const Tensor& of_h = p.cell.split ? d_gates_h : d_gates;
    return {p, view(d_gates, gates, 0, 0, gates), {view(of_h, gates, 0, 0, gates)}, wanted};
  }
  const int64_t values = p.cell.gradients();
  std::vector<LayerGradients::Gates> of_h;
  if (joint > 0) of_h.push_back(view(d_gates, values, 0, 0, joint));
  if (joint < gates) of_h.push_back(view(d_gates, values, gates, joint, gates - joint));
  return {p, view(d_gates, values, 0, 0, gates), std::move(of_h), wanted};
}

using LayerGradientsResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

LayerGradientsResult layer_backward(const std::string& cell, const OptionalTensor& d_output,
                                    const OptionalTensor& d_h_n, const OptionalTensor& d_c_n,
                                    const OptionalTensor& d_cells, const Tensor& x_given, const Tensor& w_ih,
                                    const Tensor& w_hh, const Tensor& output, const Tensor& cells,
                                    const OptionalTensor& saved, const OptionalTensor& written_over,
                                    const OptionalTensor& h_0_given, const OptionalTensor& c_0, bool need_x,
                                    bool need_w_ih, bool need_w_hh, bool need_bias) {
  if (saved.has_value() == written_over.has_value()) fail("layer_backward takes either saved or written_over");
  const Checker check(x_given, "x");
  const int64_t directions = output.dim() == 4 ? output.size(2) : 1;
  const Problem p = describe_layer(cell, shape_of(x_given), w_hh, std::nullopt, check.type(), directions);
  if (p.type != DataType::kFloat32 && p.type != DataType::kFloat64) fail("x must be float32 or float64");
  const int64_t gate_rows = p.cell.gates * p.hidden_size, width = directions * gate_rows;
  check(w_ih, "w_ih", "[D*G*H, I]", {width, p.input_size});
  const Tensor stacked = torch::stable::view(w_hh, {directions, gate_rows, p.output_size});
  const Tensor x = torch::stable::contiguous(x_given), dense_output = torch::stable::contiguous(output);
  const OptionalTensor h_0 = with_dense_tail(h_0_given, 2);
  const Allocator allocate(x);
  const LayerGradients::Wanted wanted{allocate(need_x, {p.time_steps, p.batch, p.input_size}),
                                      allocate(need_w_ih, {width, p.input_size}),
                                      allocate(need_w_hh, {width, p.output_size}), allocate(need_bias, {width}),
                                      allocate(need_bias && p.cell.split, {width})};
  const bool over = written_over.has_value();
  const auto make_work = [&](const Tensor& d_gates, const Tensor& d_gates_h) {
    return gradients_of(p, d_gates, d_gates_h, over, wanted).work(x, w_ih, dense_output, h_0);
  };
  const BackwardResult found =
      run_backward(cell, d_output, d_h_n, d_c_n, d_cells, stacked, std::nullopt, output, cells,
                   over ? *written_over : *saved, h_0_given, c_0, std::nullopt, std::nullopt, std::nullopt,
                   std::nullopt, std::nullopt, std::nullopt, over, false, make_work);
  return {wanted.d_x,    wanted.d_w_ih,      wanted.d_w_hh,     wanted.d_b_ih,
          wanted.d_b_hh, std::get<2>(found), std::get<3>(found)};
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "layer(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0,"
      " Tensor? c_0, Tensor? lengths, Tensor? resets, int directions, bool save)"
      " -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved, Tensor hidden)");
  m.def(
      "step(str cell, Tensor x, Tensor w_ih, Tensor? b_ih, Tensor w_hh, Tensor? b_hh, Tensor? h, Tensor? c)"
      " -> (Tensor h_n, Tensor c_n)");
  m.def(
      "layer_backward(str cell, Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_cells, Tensor x, Tensor w_ih,"
      " Tensor w_hh, Tensor output, Tensor cells, Tensor? saved, Tensor(a!)? written_over, Tensor? h_0, Tensor? c_0,"
      " bool need_x, bool need_w_ih, bool need_w_hh, bool need_bias)"
      " -> (Tensor d_x, Tensor d_w_ih, Tensor d_w_hh, Tensor d_b_ih, Tensor d_b_hh, Tensor d_h_0, Tensor d_c_0)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("layer", TORCH_BOX(&fused_rnn::layer));
  m.impl("step", TORCH_BOX(&fused_rnn::step));
  m.impl("layer_backward", TORCH_BOX(&fused_rnn::layer_backward));
}
