// The gradients of a layer's input and weights as GEMMs on the gradients of its gates, a few steps at a time.
//
//   d_W_ih = sum over t of d_gates[t]^T x[t]         d_b_ih = sum over t of d_gates[t]
//   d_W_hh = sum over t of d_gates_h[t]^T h[t - 1]   d_b_hh = sum over t of d_gates_h[t]
//   d_W_hr = sum over t of d_projected[t]^T hidden[t]
//   d_x[t] = W_ih^T d_gates[t]
//
// Where h[t - 1] lies is a question about a row (core/time.h). A recurrent mask multiplies it. Steps beyond a row's
// length are left out.
#pragma once

#include <vector>

#include "core/views.h"
#include "cpu/gemm/matrices.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {

// A result that is made by sums, and where parts of them lie until they are complete.
class SummedUp {
 public:
  SummedUp(void* whole, int64_t rows, int64_t columns, DataType type)
      : whole_(whole), rows_(rows), columns_(columns), type_(type) {}

  // Of half types, which are summed up in float32; the others lie where they stay.
  void take_parts(Arena& arena) {
    if (wanted() && computed_in(type_) != type_) parts_ = arena.take<float>(rows_ * columns_);
  }

  bool wanted() const { return whole_ != nullptr; }
  int64_t columns() const { return columns_; }

  struct Place {
    void *sums, *rounded;
  };
  // From a row on; `complete` with the last sum.
  Place at(int64_t row, bool complete) const;

 private:
  void* whole_;
  int64_t rows_, columns_;
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
  StepRows(const Problem& p, const BackwardViews& views, Arena& arena);

  void prepare() const;

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
  const BackwardViews& views_;
  int64_t count_;
  uint8_t* active_ = nullptr;  // [T * B], null: all are
  int64_t* rows_ = nullptr;    // t * B + b of those
  int64_t* begins_ = nullptr;  // in `rows`, of each step and one more
};

class WeightGradients {
 public:
  // The gate gradients, d_projected, x and hidden have one stride from row to row of [T * B].
  WeightGradients(const Problem& p, const BackwardViews& views, const LayerGradientViews& layer, Arena& arena);

  // Fills its memory; once, before anything else.
  void prepare() const;

  // The sums over all steps are made a few steps at a time. With two directions, of which one is at the end of the
  // sequence when the other is at its beginning, all at once.
  GradientWork work() const;

 private:
  // Neighbouring gates of all directions.
  struct Gates {
    int64_t first, count;
    const SequenceView<void>& gradients;
    bool of_x, of_h;  // whether x and h entered them with these gradients
  };

  void find_states_before(int64_t d) const;
  int64_t steps_together() const;
  bool adds(const Steps& steps) const { return steps.end < p_.time_steps; }  // to what later steps have begun
  MatrixProduct sum_of(const Steps& steps, int64_t rows, const SequenceView<void>& left, int64_t element,
                       int64_t d) const;
  RightFactor factor_of(const Steps& steps, const SummedUp& gradient, int64_t row) const;
  MatrixView rows_from(const Steps& steps, const void* data, int64_t stride) const;
  void weights(MatrixWork& work, const Steps& steps, int64_t d, const Gates& gates) const;
  void projection(MatrixWork& work, const Steps& steps, int64_t d) const;
  void input(MatrixWork& work) const;

  const Problem& p_;
  const BackwardViews& v_;
  const LayerGradientViews& layer_;
  StepRows rows_;
  SummedUp d_x_, d_w_ih_, d_w_hh_, d_b_ih_, d_b_hh_, d_w_hr_;
  const void** states_before_ = nullptr;  // [D][T * B] rows of h; null: zeros
  const void** masks_ = nullptr;          // [D][T * B] rows of the recurrent mask
};

}  // namespace fused_rnn
