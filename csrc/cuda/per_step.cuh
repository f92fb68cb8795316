// per_step: a matrix product of the caller's and one element-wise kernel for each step.
//
// Runs every problem on every architecture: any size, float64, projections. The fallback and the reference of the
// persistent schedules, with the same update (pass.cuh). State stays in the compute type in the workspace.
//
//   forward    product = W_hh h[t-1]            update -> h[t]           (projected: -> hidden[t], h[t] = W_hr
//   hidden[t]) backward   product = W_hh^T d_from_h[t+1]   update -> d_from_h[t]    (projected: d_projected[t] =
//   d_output[t] +
//                                                                         product, update of W_hr^T d_projected[t])
#pragma once

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/products.h"

namespace fused_rnn::cuda {

// One thread for each unit of each row: the update of a step, or what follows the last one.
template <class Pass>
struct StepKernel {
  using T = typename Pass::T;
  using Real = RealOf<T>;
  static constexpr int kThreads = 256;

  typename Pass::Views views;
  int64_t time_steps, position, batch;
  int directions, hidden_size;
  const T* product;  // [D, B, results * H], or null for zero
  Real* states;      // [states, D, B, H]
  bool first, last;  // first: states are still the initial ones; last: nothing but the end is left

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t count = batch * hidden_size;
    const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
    if (index >= count) return;
    const Element e{static_cast<int>(index / hidden_size), block_y(), static_cast<int>(index % hidden_size)};
    Real* own = states + e.direction * count + index;
    const int64_t apart = directions * count;
    Pack<Real, Pass::kStates> state;
    if (first) {
      state = Pass::first_state(views, e);
    } else {
      for (int s = 0; s < Pass::kStates; ++s) state[s] = own[s * apart];
    }
    Pack<Real, Pass::kResults> results;
    for (int r = 0; r < Pass::kResults; ++r) {
      const int64_t column = static_cast<int64_t>(r) * hidden_size + e.unit, width = Pass::kResults * hidden_size;
      results[r] = Pass::bias(views, e.direction, r, e.unit, hidden_size);
      if (product != nullptr) results[r] += to_real(product[(e.direction * batch + e.row) * width + column]);
    }
    if (last) {
      Pass::end(views, e, state, results);
      return;
    }
    const Moment now = moment_at(position, e.direction, time_steps);
    Pack<Real, Pass::kVectors> vector;
    state = Pass::update(views, e, now, hidden_size, Pass::load(views, e, now, hidden_size), results, state, vector);
    for (int s = 0; s < Pass::kStates; ++s) own[s * apart] = state[s];
  }
};

// to = a + b over [D, B, width]; either may be absent.
template <class T>
struct SumKernel {
  static constexpr int kThreads = 256;
  StateView<void> to;
  StateView<const void> a, b;
  int64_t batch;
  int width;

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
    if (index >= batch * width) return;
    const Element e{static_cast<int>(index / width), block_y(), static_cast<int>(index % width)};
    RealOf<T> sum(0);
    if (has(a)) sum += to_real(*element_at<T, int64_t>(a, e));
    if (has(b)) sum += to_real(*element_at<T, int64_t>(b, e));
    *element_at<T, int64_t>(to, e) = from_real<T>(sum);
  }
};

template <class Pass>
class PerStep {
 public:
  using T = typename Pass::T;
  using Real = RealOf<T>;
  using Views = typename Pass::Views;

  PerStep(const Problem& problem, const Views& views, Products& products, void* workspace, Stream stream)
      : problem_(problem), views_(views), products_(products), stream_(stream) {
    auto* const bytes = static_cast<unsigned char*>(workspace);
    states_ = reinterpret_cast<Real*>(bytes);
    product_ = reinterpret_cast<T*>(bytes + state_bytes(problem));
    second_ = product_ + product_size(problem);
  }

  static size_t workspace_bytes(const Problem& problem) {
    const int64_t hidden = problem.projected ? rows(problem) * problem.hidden_size : 0;
    return state_bytes(problem) + static_cast<size_t>(product_size(problem) + hidden) * sizeof(T);
  }

  void run() {
    if constexpr (Pass::kBackward) {
      backward();
    } else {
      forward();
    }
  }

 private:
  static int64_t rows(const Problem& p) { return p.directions * p.batch; }
  static int64_t product_width(const Problem& p) {
    return Pass::kBackward ? p.output_size : static_cast<int64_t>(p.cell.gates) * p.hidden_size;
  }
  static int64_t product_size(const Problem& p) { return rows(p) * product_width(p); }
  static size_t state_bytes(const Problem& p) {
    const size_t bytes = static_cast<size_t>(Pass::kStates * rows(p) * p.hidden_size) * sizeof(Real);
    return (bytes + 255) / 256 * 256;
  }

  // What a sequence holds where the two directions are at a position.
  template <class Void>
  StateView<Void> at(const SequenceView<Void>& view, int64_t position) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const unsigned char, unsigned char>;
    const int64_t last = problem_.time_steps - 1;
    const int64_t first = view.offset(position, 0, 0), second = view.offset(last - position, 0, 1);
    return {static_cast<Byte*>(view.data) + first * static_cast<int64_t>(sizeof(T)), second - first, view.row_stride};
  }
  template <class Void>
  static StateView<const void> reading(const StateView<Void>& view) {
    return {view.data, view.direction_stride, view.row_stride};
  }
  template <class Void>
  static SequenceView<const void> reading(const SequenceView<Void>& view) {
    return {view.data, view.time_stride, view.row_stride, view.direction_stride};
  }
  StateView<void> dense(T* data, int64_t width) const { return {data, problem_.batch * width, width}; }

  template <class Kernel>
  void launch_rows(const Kernel& kernel, int64_t width) {
    const auto blocks = static_cast<unsigned>((problem_.batch * width + Kernel::kThreads - 1) / Kernel::kThreads);
    if (blocks == 0) return;
    launch(kernel,
           {.grid_x = blocks, .grid_y = static_cast<unsigned>(problem_.directions), .threads = Kernel::kThreads},
           stream_);
  }
  void launch_step(const Views& views, int64_t position, const T* product, bool first, bool last) {
    launch_rows(
        StepKernel<Pass>{views, problem_.time_steps, position, problem_.batch, static_cast<int>(problem_.directions),
                         static_cast<int>(problem_.hidden_size), product, states_, first, last},
        problem_.hidden_size);
  }
  void launch_sum(const StateView<void>& to, const StateView<const void>& a, const StateView<const void>& b) {
    launch_rows(SumKernel<T>{to, a, b, problem_.batch, static_cast<int>(problem_.output_size)}, problem_.output_size);
  }

  void forward() {
    Views views = views_;
    if (problem_.projected) {
      // The update makes what will be projected.
      const int64_t width = problem_.hidden_size;
      views.output = has(views_.hidden) ? views_.hidden : SequenceView<void>{second_, 0, width, problem_.batch * width};
      views.h_n = {};
      views.h_0 = {};
    }
    const StateView<void> product = dense(product_, product_width(problem_));
    for (int64_t step = 0; step < problem_.time_steps; ++step) {
      const StateView<const void> h = step == 0 ? views_.h_0 : at(reading(views_.output), step - 1);
      if (has(h)) products_.multiply(Factor::kRecurrent, h, product);
      launch_step(views, step, has(h) ? product_ : nullptr, step == 0, false);
      if (problem_.projected) {
        products_.multiply(Factor::kProjection, at(reading(views.output), step), at(views_.output, step));
      }
    }
    launch_step(views, 0, nullptr, problem_.time_steps == 0, true);
    if (problem_.projected) {
      const bool empty = problem_.time_steps == 0;
      launch_sum(views_.h_n, empty ? views_.h_0 : at(reading(views_.output), problem_.time_steps - 1), {});
    }
  }

  void backward() {
    Views views = views_;
    if (problem_.projected) {
      // Both are gradients of the projected h, to which launch_sum adds them.
      views.d_output = {};
      views.d_h_n = {};
      views.d_h_0 = {};
    }
    const SequenceView<const void> d_from_h = reading(Pass::Cell::kSplit ? views_.d_gates_h : views_.d_gates);
    const StateView<void> product = dense(product_, problem_.output_size);
    const StateView<void> d_hidden = dense(second_, problem_.hidden_size);
    const int64_t last = problem_.time_steps - 1;
    for (int64_t position = last; position >= 0; --position) {
      const bool first = position == last;
      if (!first) products_.multiply(Factor::kRecurrent, at(d_from_h, position + 1), product);
      const T* from_h = first ? nullptr : product_;
      if (problem_.projected) {
        const StateView<void> d_projected = at(views_.d_projected, position);
        const auto d_output = has(views_.d_output) ? at(views_.d_output, position) : StateView<const void>{};
        launch_sum(d_projected, d_output, first ? views_.d_h_n : reading(product));
        products_.multiply(Factor::kProjection, reading(d_projected), d_hidden);
        from_h = second_;
      }
      launch_step(views, position, from_h, first, false);
    }
    const bool empty = problem_.time_steps == 0;
    if (!empty) products_.multiply(Factor::kRecurrent, at(d_from_h, 0), product);
    if (problem_.projected) launch_sum(views_.d_h_0, empty ? views_.d_h_n : reading(product), {});
    launch_step(views, 0, empty || problem_.projected ? nullptr : product_, empty, true);
  }

  Problem problem_;
  Views views_;
  Products& products_;
  Stream stream_;
  Real* states_;
  T *product_, *second_;
};

}  // namespace fused_rnn::cuda
