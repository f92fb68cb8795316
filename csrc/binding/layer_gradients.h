// The gradients of a layer's input and weights, as work on the gradients of its gates.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "binding/allocator.h"
#include "binding/tensor_views.h"
#include "core/time.h"
#include "cpu/gemm/matrices.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {

// A tensor that is made by sums, and where parts of them lie until they are complete.
class SummedUp {
 public:
  SummedUp(const Allocator& allocate, bool wanted, const Shape& shape)
      : whole_(allocate(wanted, shape)), type_(data_type_of(whole_, "gradient")) {}

  // Of half types, which are summed up in float32; the others lie where they stay.
  void take_parts(Arena& arena) {
    if (computed_in(type_) != type_) parts_ = arena.take<float>(whole_.numel());
  }

  const Tensor& tensor() const { return whole_; }
  bool wanted() const { return whole_.numel() > 0; }
  int64_t columns() const { return whole_.size(1); }

  struct Place {
    void *sums, *rounded;
  };
  // From an element on; `complete` with the last sum.
  Place at(int64_t element, bool complete) const {
    void* whole = shifted(whole_.mutable_data_ptr(), element, type_);
    if (computed_in(type_) == type_) return {whole, nullptr};
    return {parts_ == nullptr ? nullptr : parts_ + element, complete ? whole : nullptr};
  }

 private:
  Tensor whole_;
  DataType type_;
  float* parts_ = nullptr;
};

// Steps [begin, end) of all rows.
struct Steps {
  int64_t begin, end;
};

// The steps of all rows, [T * B], without those from a row's length on.
class StepRows {
 public:
  StepRows(const Problem& p, const BackwardViews& ragged, Arena& arena)
      : p_(p), ragged_(ragged), count_(p.time_steps * p.batch) {
    if (ragged.lengths == nullptr) return;
    active_ = arena.take<uint8_t>(count_);
    rows_ = arena.take<int64_t>(count_);
    begins_ = arena.take<int64_t>(p.time_steps + 1);
    count_ = 0;
    for (int64_t row = 0; row < p.batch; ++row) count_ += std::clamp<int64_t>(ragged.lengths[row], 0, p.time_steps);
  }

  void prepare() const {
    if (active_ == nullptr) return;
    int64_t found = 0;
    for (int64_t t = 0; t < p_.time_steps; ++t) {
      begins_[t] = found;
      for (int64_t row = t * p_.batch; row < (t + 1) * p_.batch; ++row) {
        active_[row] = row_step(ragged_, t, row - t * p_.batch) != RowStep::kInactive ? 1 : 0;
        if (active_[row] != 0) rows_[found++] = row;
      }
    }
    begins_[p_.time_steps] = found;
  }

  int64_t count() const { return count_; }
  int64_t count(const Steps& steps) const {
    return active_ == nullptr ? (steps.end - steps.begin) * p_.batch : begins_[steps.end] - begins_[steps.begin];
  }
  bool fit_a_panel() const { return count_ <= kPanelDepth; }

  // What a list counts from, and the list itself; null: all that follow.
  int64_t first(const Steps& steps) const { return active_ == nullptr ? steps.begin * p_.batch : 0; }
  const int64_t* list(const Steps& steps) const { return active_ == nullptr ? nullptr : rows_ + begins_[steps.begin]; }
  const uint8_t* active() const { return active_; }

 private:
  const Problem& p_;
  const BackwardViews& ragged_;
  int64_t count_;
  uint8_t* active_ = nullptr;  // [T * B], null: all are
  int64_t* rows_ = nullptr;    // t * B + b of those
  int64_t* begins_ = nullptr;  // in `rows`, of each step and one more
};

// Everything that the products need besides the gate gradients, contiguous where strides are not asked for.
struct LayerTensors {
  Tensor x;            // [T, B, I]
  Tensor w_ih;         // [D*G*H, I], any strides
  Tensor output;       // [T, B, D, P]
  OptionalTensor h_0;  // [D, B, P], contiguous rows
  Tensor hidden;       // [T, B, D, H], projected layers
};

// Neighbouring gates of both directions: [T*B, D, gates*H] with strides.
struct GateGradients {
  int64_t first, count;  // gates
  const void* data;
  int64_t row_stride, direction_stride;
  bool of_x, of_h;  // whether x and h entered them with these gradients
};

class LayerGradients {
 public:
  // What is wanted of it: tensors, or empty ones.
  struct Wanted {
    SummedUp d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_w_hr;
  };

  LayerGradients(const Problem& p, const BackwardViews& ragged, const LayerTensors& tensors, Wanted& wanted,
                 Arena& arena)
      : p_(p), ragged_(ragged), rows_(p, ragged, arena), tensors_(tensors), wanted_(wanted) {
    if (wanted.d_w_hh.wanted()) states_before_ = arena.take<const void*>(p.directions * p.time_steps * p.batch);
    if (!rows_.fit_a_panel()) {
      for (SummedUp* sum : {&wanted.d_w_ih, &wanted.d_w_hh, &wanted.d_b_ih, &wanted.d_b_hh, &wanted.d_w_hr}) {
        sum->take_parts(arena);
      }
    }
    if (p.directions > 1 || p.cell.gates * p.hidden_size > kPanelDepth) wanted.d_x.take_parts(arena);
  }

  // Fills its memory; once, before anything else.
  void prepare() const {
    rows_.prepare();
    for (int64_t d = 0; d < p_.directions && states_before_ != nullptr; ++d) find_states_before(d);
  }

  // The gates of x come first and lie side by side. d_projected [T, B, D, P] is that of a projection's results.
  //
  // The sums over all steps are made a few steps at a time. With two directions, of which one is at the end of the
  // sequence when the other is at its beginning, all at once.
  GradientWork work(const std::vector<GateGradients>& gates, const Tensor& d_projected) const {
    GradientWork work;
    work.steps = p_.directions == 1 ? steps_together() : std::max<int64_t>(p_.time_steps, 1);
    for (int64_t begin = 0; begin < p_.time_steps || begin == 0; begin += work.steps) {
      const Steps steps{begin, std::min(begin + work.steps, p_.time_steps)};
      // With a single round the threads need not meet before the end.
      MatrixWork& some = work.steps >= p_.time_steps ? work.at_end : work.of_steps.emplace_back();
      for (int64_t d = 0; d < p_.directions; ++d) {
        for (const GateGradients& each : gates) weights(some, steps, d, each);
        if (wanted_.d_w_hr.wanted()) projection(some, steps, d, d_projected);
      }
    }
    if (wanted_.d_x.wanted()) input(work.at_end, gates.front());
    return work;
  }

 private:
  // Where h before each step of a direction lies: the output one step before in the direction's order and, before the
  // first step of a row, the initial state. Null: zeros, where there is none or a row starts anew.
  void find_states_before(int64_t d) const {
    const Tensor& output = tensors_.output;
    const OptionalTensor& h_0 = tensors_.h_0;
    const int64_t size = p_.output_size, width = p_.directions * size;
    const void* outputs = shifted(output.const_data_ptr(), d * size, p_.type);
    const void* initial = h_0.has_value() ? shifted(h_0->const_data_ptr(), d * h_0->stride(0), p_.type) : nullptr;
    const void** found = states_before_ + d * p_.time_steps * p_.batch;
    for (int64_t t = 0; t < p_.time_steps; ++t) {
      const int64_t position = time_at(t, d, p_.time_steps);
      for (int64_t row = 0; row < p_.batch; ++row, ++found) {
        const StateBefore where = state_before(ragged_, position, t, d, row);
        if (where == StateBefore::kStep) {
          *found = shifted(outputs, (time_before(t, d) * p_.batch + row) * width, p_.type);
        } else {
          const bool given = where == StateBefore::kInitial && initial != nullptr;
          *found = given ? shifted(initial, row * h_0->stride(1), p_.type) : nullptr;
        }
      }
    }
  }

  // Steps whose gate gradients are near when they are used, and so many that the sums, which are read and written once
  // for each round of steps, do not cost more than that saves: as many rows as a product takes at once.
  int64_t steps_together() const {
    const int64_t count = rows_.count(), steps = std::max<int64_t>(p_.time_steps, 1);
    if (rows_.fit_a_panel()) return steps;
    const int64_t rounds = (count + kPanelDepth - 1) / kPanelDepth, in_a_step = (count + steps - 1) / steps;
    return std::clamp<int64_t>((steps + rounds - 1) / rounds, 1, std::max<int64_t>(kPanelDepth / in_a_step, 1));
  }

  // Sums over some steps of rows of `a`, which then stand for the columns of a product's left side.
  MatrixProduct sum_of(const Steps& steps, int64_t rows, const void* a, int64_t row_stride) const {
    return {.type = p_.type,
            .rows = rows,
            .depth = rows_.count(steps),
            .a = {shifted(a, rows_.first(steps) * row_stride, p_.type), 1, row_stride},
            .terms = rows_.list(steps),
            .factors = {},
            .add_sums = adds(steps)};
  }
  bool adds(const Steps& steps) const { return steps.end < p_.time_steps; }  // to what later steps have begun
  static bool completes(const Steps& steps) { return steps.begin == 0; }

  RightFactor factor_of(const Steps& steps, const SummedUp& gradient, int64_t row) const {
    const auto [sums, rounded] = gradient.at(row * gradient.columns(), completes(steps));
    return {.columns = gradient.columns(), .c = sums, .add = adds(steps), .rounded = rounded};
  }
  MatrixView rows_from(const Steps& steps, const Tensor& tensor, int64_t element, int64_t stride) const {
    return {shifted(tensor.const_data_ptr(), rows_.first(steps) * stride + element, p_.type), stride, 1};
  }

  // Sums over t of d_gates[t]^T x[t] and d_gates[t]^T h[t - 1], and of d_gates[t] itself. The factors share the way of
  // the gate gradients through the caches.
  void weights(MatrixWork& work, const Steps& steps, int64_t d, const GateGradients& gates) const {
    const int64_t row = (d * p_.cell.gates + gates.first) * p_.hidden_size;  // of the gradients, [D*G*H, columns]
    MatrixProduct product = sum_of(steps, gates.count * p_.hidden_size, of_direction(gates, d), gates.row_stride);
    if (gates.of_x && wanted_.d_w_ih.wanted()) {
      product.factors.push_back(factor_of(steps, wanted_.d_w_ih, row));
      product.factors.back().b = rows_from(steps, tensors_.x, 0, p_.input_size);
    }
    if (gates.of_h && wanted_.d_w_hh.wanted()) {
      product.factors.push_back(factor_of(steps, wanted_.d_w_hh, row));
      product.factors.back().b_rows = states_before_ + d * p_.time_steps * p_.batch + rows_.first(steps);
    }
    const auto sum = [&](const SummedUp& gradient) {
      const auto [sums, rounded] = gradient.at(row, completes(steps));
      product.sums.push_back({sums, rounded});
    };
    if (gates.of_x && wanted_.d_b_ih.wanted()) sum(wanted_.d_b_ih);
    if (gates.of_h && wanted_.d_b_hh.wanted()) sum(wanted_.d_b_hh);
    if (!product.factors.empty() || !product.sums.empty()) work.push_back(std::move(product));
  }

  // Sums over t of d_projected[t]^T hidden[t].
  void projection(MatrixWork& work, const Steps& steps, int64_t d, const Tensor& d_projected) const {
    const void* a = shifted(d_projected.const_data_ptr(), d * p_.output_size, p_.type);
    MatrixProduct product = sum_of(steps, p_.output_size, a, p_.directions * p_.output_size);
    product.factors.push_back(factor_of(steps, wanted_.d_w_hr, d * p_.output_size));
    product.factors.back().b = rows_from(steps, tensors_.hidden, d * p_.hidden_size, p_.directions * p_.hidden_size);
    work.push_back(std::move(product));
  }

  void input(MatrixWork& work, const GateGradients& first) const {
    const Tensor& w_ih = tensors_.w_ih;
    const int64_t size = p_.cell.gates * p_.hidden_size;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const void* w = shifted(w_ih.const_data_ptr(), d * size * w_ih.stride(0), p_.type);
      const auto [sums, rounded] = wanted_.d_x.at(0, d == p_.directions - 1);
      work.push_back({.type = p_.type,
                      .rows = p_.time_steps * p_.batch,
                      .depth = size,
                      .a = {of_direction(first, d), first.row_stride, 1},
                      .filled = rows_.active(),
                      .factors = {{.columns = p_.input_size,
                                   .b = {w, w_ih.stride(0), w_ih.stride(1)},
                                   .c = sums,
                                   .add = d > 0,
                                   .rounded = rounded}}});
    }
  }

  const void* of_direction(const GateGradients& gates, int64_t d) const {
    return shifted(gates.data, d * gates.direction_stride, p_.type);
  }

  const Problem& p_;
  const BackwardViews& ragged_;
  StepRows rows_;
  const LayerTensors& tensors_;
  const Wanted& wanted_;
  const void** states_before_ = nullptr;  // [D][T * B]
};

// Where the backward pass leaves the gradients of the gates; see check_exchange for those that are written `over`.
inline std::vector<GateGradients> gate_gradients(const Problem& p, const Tensor& d_gates, const Tensor& d_gates_h,
                                                 bool over) {
  const int64_t gates = p.cell.gates, joint = p.cell.joint_gates, apart = gates - joint;
  const int64_t width = (over ? p.cell.gradients() : gates) * p.hidden_size;
  const auto view = [&](const Tensor& tensor, int64_t at, int64_t first, int64_t count, bool of_x,
                        bool of_h) -> GateGradients {
    const void* data = shifted(tensor.const_data_ptr(), at * p.hidden_size, p.type);
    return {first, count, data, p.directions * width, width, of_x, of_h};
  };
  std::vector<GateGradients> found;
  if (joint > 0) found.push_back(view(d_gates, 0, 0, joint, true, true));
  if (apart > 0) {
    found.push_back(view(d_gates, joint, joint, apart, true, false));
    found.push_back(over ? view(d_gates, gates, joint, apart, false, true)
                         : view(d_gates_h, joint, joint, apart, false, true));
  }
  return found;
}

}  // namespace fused_rnn
