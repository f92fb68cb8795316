// per_step: a GEMM of the caller's and one element-wise kernel for each step.
//
// Runs every problem on every architecture: any size, float64, projections, zoneout, a recurrent mask, weights of
// single units, and layer norms (norm_step.cuh). The fallback and the reference of the persistent schedules, with the
// same update (pass.cuh). State stays in the compute type in the workspace, and so does the vector that the next
// GEMM takes, in the tensors' type.
//
//   forward    product = W_hh h          update -> h         (projected: -> hidden, then h = W_hr hidden)
//   backward   product = W_hh^T d_from_h update -> d_from_h  (projected: first d_hidden = W_hr^T (d_output + product))
//
// A recurrent mask is a factor of h on its way into the forward GEMM and of what backward's returns.
#pragma once

#include "cuda/diagonal.cuh"
#include "cuda/launch.h"
#include "cuda/norm_step.cuh"
#include "cuda/pass.cuh"
#include "cuda/products.h"

namespace fused_rnn::cuda {

// One thread for each unit of each row: the update of a step, or what follows the last one.
template <class Pass>
struct StepKernel {
  using T = typename Pass::T;
  using Real = RealOf<T>;
  static constexpr int kThreads = 256;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have six

  typename Pass::Views views;
  int64_t time_steps, position, batch;
  int directions, heads, hidden_size;
  const T* product;  // [D, B, results * H], or null for zero
  Real* states;      // [states, D, B, H]
  T* vectors;        // [D, B, vectors * H], or null where a projection makes them
  bool first, last;  // first: states are still the initial ones; last: nothing but the end is left

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t count = batch * hidden_size;
    const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
    if (index >= count) return;
    const Element e{static_cast<int>(index / hidden_size), block_y(), static_cast<int>(index % hidden_size)};
    const int64_t row = e.direction * batch + e.row;
    Real* own = states + row * hidden_size + e.unit;
    const int64_t apart = directions * count;
    Pack<Real, Pass::kStates> state;
    if (first) {
      state = Pass::first_state(views, e, first_time(time_steps, direction_of(e.direction, heads)), hidden_size);
    } else {
      for (int s = 0; s < Pass::kStates; ++s) state[s] = own[s * apart];
    }
    Pack<Real, Pass::kResults> results;
    for (int r = 0; r < Pass::kResults; ++r) {
      results[r] = Pass::bias(views, e.direction, r, e.unit, hidden_size);
      if (product != nullptr) results[r] += to_real(product[(row * Pass::kResults + r) * hidden_size + e.unit]);
    }
    if (last) {
      Pass::end(views, e, hidden_size, state, results);
      if constexpr (Pass::kBackward && Pass::Cell::kNormGroups > 0) {
        for (int k = 0; has(views.d_norm) && k < kNormRows<typename Pass::Cell>; ++k) {
          const Real sum = first ? Real(0) : own[(Pass::kStates + k) * apart];
          element_at<T, int64_t>(views.d_norm, 0, e)[static_cast<int64_t>(k) * hidden_size] = from_real<T>(sum);
        }
      }
      return;
    }
    const Moment<int64_t> now = moment_at(position, direction_of(e.direction, heads), time_steps);
    typename Pass::Made made;
    const typename Pass::Inputs inputs = Pass::load(views, e, now, hidden_size);
    state = Pass::update(views, e, now, hidden_size, inputs, results, state, made);
    Pass::store(views, e, now, hidden_size, made);
    for (int s = 0; s < Pass::kStates; ++s) own[s * apart] = state[s];
    for (int v = 0; vectors != nullptr && v < Pass::kVectors; ++v) {
      vectors[(row * Pass::kVectors + v) * hidden_size + e.unit] = from_real<T>(made.vector[v]);
    }
  }
};

// One thread for each element of h of each row: h before the first step, and where h is a projection also what the
// update does for h otherwise.
template <class Pass>
struct ProjectionKernel {
  using T = typename Pass::T;
  static constexpr int kThreads = 256;

  typename Pass::Views views;
  int64_t time_steps, position, batch;
  int heads, width;
  const T* product;  // [D, B, P]: forward: W_hr hidden; backward: W_hh^T d_from_h, or null for zero
  T* carried;        // [D, B, P], where h is a projection: forward: h; backward: its gradient of rows that have ended
  T* vectors;        // [D, B, P], forward: what the next GEMM takes
  bool start, end;   // before the first step, after the last one

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
    if (index >= batch * width) return;
    const Element e{static_cast<int>(index / width), block_y(), static_cast<int>(index % width)};
    const int64_t own = (e.direction * batch + e.row) * width + e.unit;
    const Direction direction = direction_of(e.direction, heads);
    const Moment<int64_t> now = moment_at(position, direction, time_steps);
    const bool active = !start && !end && row_step(views, now.time, e.row) != RowStep::kInactive;
    if constexpr (Pass::kBackward) {
      const RealOf<T> from_h = product != nullptr ? masked<T, int64_t>(views, e, to_real(product[own])) : RealOf<T>(0);
      if (start) {
        carried[own] = has(views.d_h_n) ? *element_at<T, int64_t>(views.d_h_n, e) : T{};
      } else if (end) {
        *element_at<T, int64_t>(views.d_h_0, e) = from_real<T>(from_h + to_real(carried[own]));
      } else {
        const RealOf<T> d_h = from_h + to_real(carried[own]);
        RealOf<T> d_output(0);
        if (active && has(views.d_output)) d_output = to_real(*element_at<T, int64_t>(views.d_output, now.time, e));
        *element_at<T, int64_t>(views.d_projected, now.time, e) = active ? from_real<T>(d_output + d_h) : T{};
        carried[own] = active ? T{} : from_real<T>(d_h);
      }
    } else {
      const auto hand_on = [&](T h) {
        if (carried != nullptr) carried[own] = h;
        vectors[own] = from_real<T>(masked<T, int64_t>(views, e, to_real(h)));
      };
      if (start) {
        hand_on(from_real<T>(Pass::first_hidden(views, e, first_time(time_steps, direction))));
      } else if (end) {
        *element_at<T, int64_t>(views.h_n, e) = carried[own];
      } else {
        *element_at<T, int64_t>(views.output, now.time, e) = active ? product[own] : T{};
        if (!now.is_last && is_reset<Features::kAll>(views, now.time_after, e.row)) {
          hand_on(T{});
        } else if (active) {
          hand_on(product[own]);
        }
      }
    }
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
    vectors_ = product_ + rows(problem) * product_width(problem);
    hidden_ = vectors_ + rows(problem) * vector_width(problem);
    carried_ = hidden_ + rows(problem) * problem.hidden_size;
  }

  static size_t workspace_bytes(const Problem& problem) {
    int64_t width = product_width(problem) + vector_width(problem);
    if (problem.projected) width += problem.hidden_size + problem.output_size;
    return state_bytes(problem) + static_cast<size_t>(rows(problem) * width) * sizeof(T);
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
    return Pass::kBackward ? p.output_size : static_cast<int64_t>(p.cell.recurrent_gates) * p.hidden_size;
  }
  static int64_t vector_width(const Problem& p) {
    return Pass::kBackward ? static_cast<int64_t>(p.cell.recurrent_gates) * p.hidden_size : p.output_size;
  }
  static size_t state_bytes(const Problem& p) {
    int states = Pass::kStates;
    if constexpr (Pass::Cell::kNormGroups > 0) states += p.normalized ? norm_states<Pass>() : 0;
    const size_t bytes = static_cast<size_t>(states * rows(p) * p.hidden_size) * sizeof(Real);
    return (bytes + 255) / 256 * 256;
  }

  // What a sequence holds where the two directions are at a position; of a projection, which has one head.
  template <class Void>
  StateView<Void> at(const SequenceView<Void>& view, int64_t position) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const unsigned char, unsigned char>;
    const auto offset = [&](Direction direction, int64_t index) {
      return view.offset(time_at(position, direction, problem_.time_steps), 0, index);
    };
    const int64_t first = offset(Direction::kForward, 0), second = offset(Direction::kBackward, 1);
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
    T* const vectors = problem_.projected && !Pass::kBackward ? nullptr : vectors_;
    if constexpr (Pass::Cell::kNormGroups > 0) {
      if (problem_.normalized && !last) return launch_norm_step(views, position, product, vectors, first);
    }
    launch_rows(StepKernel<Pass>{views, problem_.time_steps, position, problem_.batch,
                                 static_cast<int>(problem_.directions), static_cast<int>(problem_.heads),
                                 static_cast<int>(problem_.hidden_size), product, states_, vectors, first, last},
                problem_.hidden_size);
  }
  void launch_norm_step(const Views& views, int64_t position, const T* product, T* vectors, bool first) {
    using Kernel = std::conditional_t<Pass::kBackward, NormBackwardStep<Pass>, NormForwardStep<Pass>>;
    if (problem_.batch == 0) return;
    launch(Kernel{{views, problem_.time_steps, position, problem_.batch, static_cast<int>(problem_.directions),
                   static_cast<int>(problem_.heads), static_cast<int>(problem_.hidden_size), product, states_, vectors,
                   first}},
           {.grid_x = static_cast<unsigned>(problem_.batch),
            .grid_y = static_cast<unsigned>(problem_.directions),
            .threads = Kernel::kThreads},
           stream_);
  }
  void launch_projection(int64_t position, const T* product, bool start, bool end) {
    launch_rows(ProjectionKernel<Pass>{views_, problem_.time_steps, position, problem_.batch,
                                       static_cast<int>(problem_.heads), static_cast<int>(problem_.output_size),
                                       product, problem_.projected ? carried_ : nullptr, vectors_, start, end},
                problem_.output_size);
  }
  void multiply(Factor factor, const StateView<const void>& from, T* to, int64_t width) {
    if (problem_.batch > 0) products_.multiply(factor, from, dense(to, width));
  }

  void forward() {
    Views views = views_;
    if (problem_.projected) {
      // The update makes what will be projected.
      const int64_t width = problem_.hidden_size;
      views.output = has(views_.hidden) ? views_.hidden : SequenceView<void>{hidden_, 0, width, problem_.batch * width};
      views.h_n = {};
      views.h_0 = {};
      views.variant.recurrent_mask = {};
    }
    launch_projection(0, nullptr, true, false);  // h_0, or zero
    for (int64_t step = 0; step < problem_.time_steps; ++step) {
      multiply(Factor::kRecurrent, reading(dense(vectors_, problem_.output_size)), product_, product_width(problem_));
      launch_step(views, step, product_, step == 0, false);
      if (problem_.projected) {
        multiply(Factor::kProjection, at(reading(views.output), step), product_, problem_.output_size);
        launch_projection(step, product_, false, false);
      }
    }
    launch_step(views, 0, nullptr, problem_.time_steps == 0, true);
    if (problem_.projected) launch_projection(0, nullptr, false, true);
  }

  void backward() {
    Views views = views_;
    if (problem_.projected) {
      // All are of the projected h.
      views.d_output = {};
      views.d_h_n = {};
      views.d_h_0 = {};
      views.variant.recurrent_mask = {};
      launch_projection(0, nullptr, true, false);
    }
    const StateView<const void> vectors = reading(dense(vectors_, vector_width(problem_)));
    const int64_t last = problem_.time_steps - 1;
    for (int64_t position = last; position >= 0; --position) {
      const bool first = position == last;
      if (!first) multiply(Factor::kRecurrent, vectors, product_, problem_.output_size);
      const T* from_h = first ? nullptr : product_;
      if (problem_.projected) {
        launch_projection(position, from_h, false, false);
        multiply(Factor::kProjection, at(reading(views_.d_projected), position), hidden_, problem_.hidden_size);
        from_h = hidden_;
      }
      launch_step(views, position, from_h, first, false);
    }
    const bool empty = problem_.time_steps == 0;
    if (!empty) multiply(Factor::kRecurrent, vectors, product_, problem_.output_size);
    if (problem_.projected) launch_projection(0, empty ? nullptr : product_, false, true);
    launch_step(views, 0, empty || problem_.projected ? nullptr : product_, empty, true);
  }

  Problem problem_;
  Views views_;
  Products& products_;
  Stream stream_;
  Real* states_;
  T *product_, *vectors_, *hidden_, *carried_;
};

// The schedule per_step of a pass.
template <class Pass>
using PerStepOf = std::conditional_t<(recurrent_gates<typename Pass::Cell>() > 0), PerStep<Pass>, Diagonal<Pass>>;

}  // namespace fused_rnn::cuda
