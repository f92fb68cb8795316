// See weight_gradients.h.
#include "cpu/schedules/weight_gradients.h"

#include <algorithm>
#include <utility>

#include "core/time.h"

namespace fused_rnn {

SummedUp::Place SummedUp::at(int64_t row, bool complete) const {
  const int64_t element = row * columns_;
  void* whole = shifted(whole_, element, type_);
  if (computed_in(type_) == type_) return {whole, nullptr};
  return {parts_ == nullptr ? nullptr : parts_ + element, complete ? whole : nullptr};
}

StepRows::StepRows(const Problem& p, const BackwardViews& views, Arena& arena)
    : p_(p), views_(views), count_(p.time_steps * p.batch) {
  if (views.lengths == nullptr) return;
  active_ = arena.take<uint8_t>(count_);
  rows_ = arena.take<int64_t>(count_);
  begins_ = arena.take<int64_t>(p.time_steps + 1);
  count_ = 0;
  for (int64_t row = 0; row < p.batch; ++row) count_ += std::clamp<int64_t>(views.lengths[row], 0, p.time_steps);
}

void StepRows::prepare() const {
  if (active_ == nullptr) return;
  int64_t found = 0;
  for (int64_t t = 0; t < p_.time_steps; ++t) {
    begins_[t] = found;
    for (int64_t row = t * p_.batch; row < (t + 1) * p_.batch; ++row) {
      active_[row] = row_step(views_, t, row - t * p_.batch) != RowStep::kInactive ? 1 : 0;
      if (active_[row] != 0) rows_[found++] = row;
    }
  }
  begins_[p_.time_steps] = found;
}

WeightGradients::WeightGradients(const Problem& p, const BackwardViews& views, const LayerGradientViews& layer,
                                 Arena& arena)
    : p_(p),
      v_(views),
      layer_(layer),
      rows_(p, views, arena),
      d_x_(layer.d_x, p.time_steps * p.batch, layer.input_size, p.type),
      d_w_ih_(layer.d_w_ih, p.directions * p.cell.gates * p.hidden_size, layer.input_size, p.type),
      d_w_hh_(layer.d_w_hh, p.directions * p.cell.recurrent_gates * p.hidden_size, p.output_size, p.type),
      d_b_ih_(layer.d_b_ih, p.directions * p.cell.gates * p.hidden_size, 1, p.type),
      d_b_hh_(layer.d_b_hh, p.directions * p.cell.recurrent_gates * p.hidden_size, 1, p.type),
      d_w_hr_(layer.d_w_hr, p.directions * p.output_size, p.hidden_size, p.type) {
  const int64_t rows = p.directions * p.time_steps * p.batch;
  if (d_w_hh_.wanted()) states_before_ = arena.take<const void*>(rows);
  if (d_w_hh_.wanted() && p.recurrent_mask) masks_ = arena.take<const void*>(rows);
  if (!rows_.fit_a_panel()) {
    for (SummedUp* sum : {&d_w_ih_, &d_w_hh_, &d_b_ih_, &d_b_hh_, &d_w_hr_}) sum->take_parts(arena);
  }
  if (p.directions > 1 || p.cell.gates * p.hidden_size > kPanelDepth) d_x_.take_parts(arena);
}

void WeightGradients::prepare() const {
  rows_.prepare();
  for (int64_t d = 0; d < p_.directions && states_before_ != nullptr; ++d) find_states_before(d);
}

GradientWork WeightGradients::work() const {
  const int64_t recurrent = p_.cell.recurrent_gates, joint = std::min<int64_t>(p_.cell.joint_gates, recurrent);
  const int64_t of_x = p_.cell.gates - joint, of_h = recurrent - joint;
  std::vector<Gates> gates;
  if (joint > 0) gates.push_back({0, joint, v_.d_gates, true, true});
  if (of_x > 0) gates.push_back({joint, of_x, v_.d_gates, true, false});
  if (of_h > 0) gates.push_back({joint, of_h, v_.d_gates_h, false, true});
  GradientWork work;
  work.steps = p_.directions == p_.heads ? steps_together() : std::max<int64_t>(p_.time_steps, 1);
  for (int64_t begin = 0; begin < p_.time_steps || begin == 0; begin += work.steps) {
    const Steps steps{begin, std::min(begin + work.steps, p_.time_steps)};
    // With a single round the threads need not meet before the end.
    MatrixWork& some = work.steps >= p_.time_steps ? work.at_end : work.of_steps.emplace_back();
    for (int64_t d = 0; d < p_.directions; ++d) {
      for (const Gates& each : gates) weights(some, steps, d, each);
      if (d_w_hr_.wanted()) projection(some, steps, d);
    }
  }
  if (d_x_.wanted()) input(work.at_end);
  return work;
}

void WeightGradients::find_states_before(int64_t d) const {
  const int64_t first = d * p_.time_steps * p_.batch;
  const Direction direction = direction_of(d, p_.heads);
  for (int64_t t = 0; t < p_.time_steps; ++t) {
    const int64_t position = time_at(t, direction, p_.time_steps);
    for (int64_t row = 0; row < p_.batch; ++row) {
      const StateBefore where = state_before(v_, position, t, direction, row);
      const void*& found = states_before_[first + t * p_.batch + row];
      found = nullptr;
      if (where == StateBefore::kStep) {
        found = shifted(v_.output.data, v_.output.offset(time_before(t, direction), row, d), p_.type);
      } else if (where == StateBefore::kInitial && v_.h_0) {
        found = shifted(v_.h_0.data, v_.h_0.offset(d, row), p_.type);
      }
      if (masks_ == nullptr) continue;
      const StateView<const void>& mask = v_.variant.recurrent_mask;
      masks_[first + t * p_.batch + row] = shifted(mask.data, mask.offset(d, row), p_.type);
    }
  }
}

// Steps whose gate gradients are in the caches when they are used, and so many that the sums, which are read and
// written once for each round of steps, do not cost more than that saves: as many rows as a GEMM takes at once.
int64_t WeightGradients::steps_together() const {
  const int64_t count = rows_.count(), steps = std::max<int64_t>(p_.time_steps, 1);
  if (rows_.fit_a_panel()) return steps;
  const int64_t rounds = (count + kPanelDepth - 1) / kPanelDepth, in_a_step = (count + steps - 1) / steps;
  return std::clamp<int64_t>((steps + rounds - 1) / rounds, 1, std::max<int64_t>(kPanelDepth / in_a_step, 1));
}

// Sums over some steps of rows of `left` from an element on, which then stand for the columns of a GEMM's left side.
MatrixProduct WeightGradients::sum_of(const Steps& steps, int64_t rows, const SequenceView<void>& left, int64_t element,
                                      int64_t d) const {
  const int64_t first = rows_.first(steps) * left.row_stride + d * left.direction_stride + element;
  return {.type = p_.type,
          .rounds_factors = p_.rounds_factors,
          .rows = rows,
          .depth = rows_.count(steps),
          .a = {shifted(left.data, first, p_.type), 1, left.row_stride},
          .indices = rows_.list(steps),
          .factors = {},
          .add_sums = adds(steps)};
}

RightFactor WeightGradients::factor_of(const Steps& steps, const SummedUp& gradient, int64_t row) const {
  const auto [sums, rounded] = gradient.at(row, steps.begin == 0);
  return {.columns = gradient.columns(), .c = sums, .add = adds(steps), .rounded = rounded};
}

MatrixView WeightGradients::rows_from(const Steps& steps, const void* data, int64_t stride) const {
  return {shifted(data, rows_.first(steps) * stride, p_.type), stride, 1};
}

// The factors share the way of the gate gradients through the caches.
void WeightGradients::weights(MatrixWork& work, const Steps& steps, int64_t d, const Gates& gates) const {
  const auto row_of = [&](int64_t count) { return (d * count + gates.first) * p_.hidden_size; };
  // Of the gradients, [D*G*H, columns] and [D*R*H, columns].
  const int64_t row_of_x = row_of(p_.cell.gates), row_of_h = row_of(p_.cell.recurrent_gates);
  MatrixProduct gemm = sum_of(steps, gates.count * p_.hidden_size, gates.gradients, gates.first * p_.hidden_size, d);
  if (gates.of_x && d_w_ih_.wanted()) {
    gemm.factors.push_back(factor_of(steps, d_w_ih_, row_of_x));
    gemm.factors.back().b = rows_from(steps, layer_.x, layer_.input_size);
  }
  if (gates.of_h && d_w_hh_.wanted()) {
    const int64_t first = d * p_.time_steps * p_.batch + rows_.first(steps);
    gemm.factors.push_back(factor_of(steps, d_w_hh_, row_of_h));
    gemm.factors.back().b_rows = states_before_ + first;
    if (masks_ != nullptr) gemm.factors.back().b_masks = masks_ + first;
  }
  const auto sum = [&](const SummedUp& gradient, int64_t row) {
    const auto [sums, rounded] = gradient.at(row, steps.begin == 0);
    gemm.sums.push_back({sums, rounded});
  };
  if (gates.of_x && d_b_ih_.wanted()) sum(d_b_ih_, row_of_x);
  if (gates.of_h && d_b_hh_.wanted()) sum(d_b_hh_, row_of_h);
  if (!gemm.factors.empty() || !gemm.sums.empty()) work.push_back(std::move(gemm));
}

void WeightGradients::projection(MatrixWork& work, const Steps& steps, int64_t d) const {
  MatrixProduct gemm = sum_of(steps, p_.output_size, v_.d_projected, 0, d);
  gemm.factors.push_back(factor_of(steps, d_w_hr_, d * p_.output_size));
  gemm.factors.back().b =
      rows_from(steps, shifted(layer_.hidden, d * p_.hidden_size, p_.type), p_.directions * p_.hidden_size);
  work.push_back(std::move(gemm));
}

void WeightGradients::input(MatrixWork& work) const {
  const int64_t depth = p_.cell.gates * p_.hidden_size;
  const WeightView& w = layer_.w_ih;
  // Heads whose gates are neighbours, and their weights, are one sum.
  const bool joined = v_.d_gates.direction_stride == depth && w.direction_stride == depth * w.row_stride;
  const int64_t together = joined ? p_.heads : 1;
  for (int64_t d = 0; d < p_.directions; d += together) {
    const auto [sums, rounded] = d_x_.at(0, d + together == p_.directions);
    const void* gates = shifted(v_.d_gates.data, d * v_.d_gates.direction_stride, p_.type);
    work.push_back({.type = p_.type,
                    .rounds_factors = p_.rounds_factors,
                    .rows = p_.time_steps * p_.batch,
                    .depth = together * depth,
                    .a = {gates, v_.d_gates.row_stride, 1},
                    .nonzero_rows = rows_.active(),
                    .factors = {{.columns = layer_.input_size,
                                 .b = {shifted(w.data, d * w.direction_stride, p_.type), w.row_stride, w.column_stride},
                                 .c = sums,
                                 .add = d > 0,
                                 .rounded = rounded}}});
  }
}

}  // namespace fused_rnn
