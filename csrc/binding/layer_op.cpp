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

// A tensor that is made by sums, and where parts of them lie until they are complete.
class SummedUp {
 public:
  // `at_once` where there are no parts.
  SummedUp(const Allocator& allocate, bool wanted, const Shape& shape, bool at_once)
      : whole_(allocate(wanted, shape)), type_(data_type_of(whole_, "gradient")) {
    if (computed_in(type_) != type_) parts_ = allocate.computed(wanted && !at_once, shape);
  }

  const Tensor& tensor() const { return whole_; }
  bool wanted() const { return whole_.numel() > 0; }
  int64_t columns() const { return whole_.size(1); }

  struct Place {
    void *sums, *rounded;
  };
  // From an element on; `complete` with the last sum.
  Place at(int64_t element, bool complete) const {
    if (!parts_.has_value()) return {shifted(whole_.mutable_data_ptr(), element, type_), nullptr};
    void* parts = parts_->numel() > 0 ? shifted(parts_->mutable_data_ptr(), element, computed_in(type_)) : nullptr;
    return {parts, complete ? shifted(whole_.mutable_data_ptr(), element, type_) : nullptr};
  }

 private:
  Tensor whole_;
  DataType type_;
  OptionalTensor parts_;  // of half types
};

// The work on the gradients of the gates, from which all others come.
class LayerGradients {
 public:
  // Neighbouring gates of both directions: [T*B, D, gates*H] with strides.
  struct Gates {
    int64_t first, count;  // gates
    const void* data;
    int64_t row_stride, direction_stride;
    bool of_x, of_h;  // whether x and h entered them with these gradients
  };

  // What is wanted of it: tensors, or empty ones.
  struct Wanted {
    SummedUp d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh;
  };

  // The gates of x come first and lie side by side.
  LayerGradients(const Problem& p, std::vector<Gates> gates, const Wanted& wanted)
      : p_(p), gates_(std::move(gates)), wanted_(wanted) {}

  // The sums over all steps are made a few steps at a time. With two directions, of which one is at the end of the
  // sequence when the other is at its beginning, all at once.
  GradientWork work(const Tensor& x, const Tensor& w_ih, const Tensor& output, const OptionalTensor& h_0) const {
    GradientWork work;
    work.steps = p_.directions == 1 ? steps_together() : std::max<int64_t>(p_.time_steps, 1);
    for (int64_t begin = 0; begin < p_.time_steps || begin == 0; begin += work.steps) {
      const Steps steps{begin, std::min(begin + work.steps, p_.time_steps)};
      // With a single round the threads need not meet before the end.
      MatrixWork& some = work.steps >= p_.time_steps ? work.at_end : work.of_steps.emplace_back();
      for (int64_t d = 0; d < p_.directions; ++d) weights(some, steps, d, x, output, h_0);
    }
    input(work.at_end, w_ih);
    return work;
  }

 private:
  struct Steps {
    int64_t begin, end;
  };

  // Steps whose gate gradients are near when they are used, and so many that the sums, which are read and written once
  // for each round of steps, do not cost more than that saves: as many rows as a product takes at once.
  int64_t steps_together() const {
    const int64_t rounds = std::max<int64_t>((p_.time_steps * p_.batch + kPanelDepth - 1) / kPanelDepth, 1);
    const int64_t most = std::max<int64_t>(kPanelDepth / std::max<int64_t>(p_.batch, 1), 1);
    return std::clamp<int64_t>((p_.time_steps + rounds - 1) / rounds, 1, most);
  }

  // Sums over t of d_gates[t]^T x[t] and d_gates[t]^T h[t - 1], and of d_gates[t] itself. The factors share the way of
  // the gate gradients through the caches.
  void weights(MatrixWork& work, const Steps& steps, int64_t d, const Tensor& x, const Tensor& output,
               const OptionalTensor& h_0) const {
    const int64_t first_row = steps.begin * p_.batch, rows = (steps.end - steps.begin) * p_.batch;
    const bool add = steps.end < p_.time_steps;  // to what later steps have begun
    const bool complete = steps.begin == 0;
    const MatrixView x_rows{shifted(x.const_data_ptr(), first_row * p_.input_size, p_.type), p_.input_size, 1};
    for (const Gates& gates : gates_) {
      MatrixProduct product{
          .type = p_.type,
          .rows = gates.count * p_.hidden_size,
          .depth = rows,
          .a = {shifted(of_direction(gates, d), first_row * gates.row_stride, p_.type), 1, gates.row_stride},
          .factors = {},
          .add_sums = add};
      const auto multiply = [&](const SummedUp& gradient, std::vector<MatrixRows> by) {
        const int64_t columns = gradient.columns();
        const auto [sums, rounded] = gradient.at(row_of(gates, d) * columns, complete);
        product.factors.push_back({.columns = columns, .b = std::move(by), .c = sums, .add = add, .rounded = rounded});
      };
      const auto sum = [&](const SummedUp& gradient) {
        const auto [sums, rounded] = gradient.at(row_of(gates, d), complete);
        product.sums.push_back({sums, rounded});
      };
      if (gates.of_x && wanted_.d_w_ih.wanted()) multiply(wanted_.d_w_ih, {{rows, x_rows}});
      if (gates.of_h && wanted_.d_w_hh.wanted()) multiply(wanted_.d_w_hh, states_before(steps, d, output, h_0));
      if (gates.of_x && wanted_.d_b_ih.wanted()) sum(wanted_.d_b_ih);
      if (gates.of_h && wanted_.d_b_hh.wanted()) sum(wanted_.d_b_hh);
      if (!product.factors.empty() || !product.sums.empty()) work.push_back(std::move(product));
    }
  }

  // h before each of the steps: the output one step before in the direction's order, and the initial state before the
  // first one, which is zero where there is none. The reverse direction has all steps at once.
  std::vector<MatrixRows> states_before(const Steps& steps, int64_t d, const Tensor& output,
                                        const OptionalTensor& h_0) const {
    const int64_t width = p_.directions * p_.output_size, count = steps.end - steps.begin;
    const auto outputs = [&](int64_t begin, int64_t size) -> MatrixRows {
      const int64_t at = begin * p_.batch * width + d * p_.output_size;
      return {size * p_.batch, {shifted(output.const_data_ptr(), at, p_.type), width, 1}};
    };
    MatrixRows initial{p_.batch, {}};
    if (h_0.has_value()) {
      initial.view = {shifted(h_0->const_data_ptr(), d * h_0->stride(0), p_.type), h_0->stride(1), 1};
    }
    if (count == 0) return {};
    if (d == 1) return {outputs(1, count - 1), initial};
    if (steps.begin > 0) return {outputs(steps.begin - 1, count)};
    return {initial, outputs(0, count - 1)};
  }

  void input(MatrixWork& work, const Tensor& w_ih) const {
    if (!wanted_.d_x.wanted()) return;
    const Gates& first = gates_.front();
    const int64_t size = p_.cell.gates * p_.hidden_size;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const void* w = shifted(w_ih.const_data_ptr(), d * size * w_ih.stride(0), p_.type);
      const auto [sums, rounded] = wanted_.d_x.at(0, d == p_.directions - 1);
      work.push_back({.type = p_.type,
                      .rows = p_.time_steps * p_.batch,
                      .depth = size,
                      .a = {of_direction(first, d), first.row_stride, 1},
                      .factors = {{.columns = p_.input_size,
                                   .b = {{size, {w, w_ih.stride(0), w_ih.stride(1)}}},
                                   .c = sums,
                                   .add = d > 0,
                                   .rounded = rounded}}});
    }
  }

  const void* of_direction(const Gates& gates, int64_t d) const {
    return shifted(gates.data, d * gates.direction_stride, p_.type);
  }

  // The first row of some gates in gradients [D*G*H, columns].
  int64_t row_of(const Gates& gates, int64_t d) const { return (d * p_.cell.gates + gates.first) * p_.hidden_size; }

  const Problem& p_;
  std::vector<Gates> gates_;
  const Wanted& wanted_;
};

// Where the backward pass leaves the gradients of the gates; see check_exchange for those that are written `over`.
LayerGradients gradients_of(const Problem& p, const Tensor& d_gates, const Tensor& d_gates_h, bool over,
                            const LayerGradients::Wanted& wanted) {
  const int64_t gates = p.cell.gates, joint = p.cell.joint_gates, apart = gates - joint;
  const int64_t width = (over ? p.cell.gradients() : gates) * p.hidden_size;
  const auto view = [&](const Tensor& tensor, int64_t at, int64_t first, int64_t count, bool of_x,
                        bool of_h) -> LayerGradients::Gates {
    const void* data = shifted(tensor.const_data_ptr(), at * p.hidden_size, p.type);
    return {first, count, data, p.directions * width, width, of_x, of_h};
  };
  std::vector<LayerGradients::Gates> found;
  if (joint > 0) found.push_back(view(d_gates, 0, 0, joint, true, true));
  if (apart > 0) {
    found.push_back(view(d_gates, joint, joint, apart, true, false));
    found.push_back(over ? view(d_gates, gates, joint, apart, false, true)
                         : view(d_gates_h, joint, joint, apart, false, true));
  }
  return {p, std::move(found), wanted};
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
  const int64_t gate_rows = p.cell.gates * p.hidden_size, width = directions * gate_rows;
  check(w_ih, "w_ih", "[D*G*H, I]", {width, p.input_size});
  const Tensor stacked = torch::stable::view(w_hh, {directions, gate_rows, p.output_size});
  const Tensor x = torch::stable::contiguous(x_given), dense_output = torch::stable::contiguous(output);
  const OptionalTensor h_0 = with_dense_tail(h_0_given, 2);
  const Allocator allocate(x);
  const bool one_panel = p.time_steps * p.batch <= kPanelDepth, one_sum = directions == 1 && gate_rows <= kPanelDepth;
  const LayerGradients::Wanted wanted{{allocate, need_x, {p.time_steps, p.batch, p.input_size}, one_sum},
                                      {allocate, need_w_ih, {width, p.input_size}, one_panel},
                                      {allocate, need_w_hh, {width, p.output_size}, one_panel},
                                      {allocate, need_bias, {width}, one_panel},
                                      {allocate, need_bias && p.cell.split, {width}, one_panel}};
  const bool over = written_over.has_value();
  const auto make_work = [&](const Tensor& d_gates, const Tensor& d_gates_h) {
    return gradients_of(p, d_gates, d_gates_h, over, wanted).work(x, w_ih, dense_output, h_0);
  };
  const BackwardResult found =
      run_backward(cell, d_output, d_h_n, d_c_n, d_cells, stacked, std::nullopt, output, cells,
                   over ? *written_over : *saved, h_0_given, c_0, std::nullopt, std::nullopt, std::nullopt,
                   std::nullopt, std::nullopt, std::nullopt, over, false, make_work);
  return {wanted.d_x.tensor(),    wanted.d_w_ih.tensor(), wanted.d_w_hh.tensor(), wanted.d_b_ih.tensor(),
          wanted.d_b_hh.tensor(), std::get<2>(found),     std::get<3>(found)};
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
