// The buffers of one recurrence as pointers, strides and shapes, without an owner and without a tensor library.
//
// Dimension order is always time, batch, direction, gate, unit: [T, B, D, G, H]. Strides count elements; the dimensions
// that have no stride here are contiguous. A null pointer means that the caller did not ask for, or give, that buffer.
// `Void` is `const void` for what the schedule reads and `void` for what it writes. Nothing aliases.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/platform.h"
#include "core/problem.h"

namespace fused_rnn {

// The address so many elements further.
template <class Void>
Void* shifted(Void* data, int64_t elements, DataType type) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return static_cast<Byte*>(data) + elements * element_size(type);
}

template <class Void>
struct SequenceView {  // [T, B, D, ...], trailing dimensions contiguous
  Void* data = nullptr;
  int64_t time_stride = 0;
  int64_t row_stride = 0;
  int64_t direction_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  int64_t offset(int64_t time, int64_t row, int64_t direction) const {
    return time * time_stride + row * row_stride + direction * direction_stride;
  }
};

template <class Void>
struct StateView {  // [D, B, H]
  Void* data = nullptr;
  int64_t direction_stride = 0;
  int64_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  int64_t offset(int64_t direction, int64_t row) const { return direction * direction_stride + row * row_stride; }
};

struct WeightView {  // [D, rows, columns], any strides
  const void* data = nullptr;
  int64_t direction_stride = 0;
  int64_t row_stride = 0;
  int64_t column_stride = 0;

  explicit operator bool() const { return data != nullptr; }
};

// [T, B], true where a byte is not 0: a boolean tensor may hold any byte, of which a C++ bool allows two.
struct ResetView {
  const uint8_t* data = nullptr;
  int64_t time_stride = 0;
  int64_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
};

// What only variants have; a schedule for the plain recurrence does not look at them.
struct VariantViews {
  StateView<const void> unit_weights;    // [D, K, H], for cells that have them
  StateView<const void> norm;            // [D, N, H], N = norm_rows
  SequenceView<const void> zoneout;      // [T, B, D, states, H] how much of each state before the step stays
  StateView<const void> recurrent_mask;  // [D, B, P]
};

// What int8 weights are multiplied with, one number for each row.
struct ScaleViews {
  WeightView w_ih, w_hh;  // [D, G*H, 1] and [D, R*H, 1]
  WeightView w_hr;        // [D, P, 1]
};

struct ForwardViews {
  SequenceView<const void> gates;    // [T, B, D, G, H] input projection, b_ih included; or the next three instead
  SequenceView<const void> x;        // [T, B, I], the same for all directions
  WeightView w_ih;                   // [D, G*H, I]; for is_single_step its columns are contiguous, and those of w_hh
  WeightView b_ih;                   // [D, G*H, 1], optional
  WeightView w_hh;                   // [D, R*H, P], null where R = 0; R = CellSpec::recurrent_gates
  WeightView b_hh;                   // [D, R*H, 1], optional
  WeightView w_hr;                   // [D, P, H], only when projected
  StateView<const void> h_0;         // [D, B, P], optional: zeros
  StateView<const void> c_0;         // [D, B, E*H], optional: zeros; E = CellSpec::cell_states
  SequenceView<void> output;         // [T, B, D, P]
  StateView<void> h_n;               // [D, B, P]
  StateView<void> c_n;               // [D, B, E*H], cells with more states than h
  SequenceView<void> cells;          // [T, B, D, E*H] the same after each step, when training
  SequenceView<void> saved;          // [T, B, D, S, H], when training
  SequenceView<void> hidden;         // [T, B, D, H] h before projection, when training and projected
  const int64_t* lengths = nullptr;  // [B], optional: T; what lies outside [0, T] means the nearer end
  ResetView resets;                  // [T, B], optional: nowhere
  VariantViews variant;
  ScaleViews scales;  // only when quantized
};

struct BackwardViews {
  SequenceView<const void> d_output;  // [T, B, D, P], optional
  StateView<const void> d_h_n;        // [D, B, P], optional
  StateView<const void> d_c_n;        // [D, B, E*H], optional
  SequenceView<const void> d_cells;   // [T, B, D, E*H], optional
  WeightView w_hh;                    // as in forward
  WeightView w_hr;
  SequenceView<const void> output;  // what forward made
  SequenceView<const void> cells;
  SequenceView<const void> saved;
  StateView<const void> h_0;  // as in forward
  StateView<const void> c_0;
  SequenceView<void> d_gates;        // [T, B, D, G, H]
  SequenceView<void> d_gates_h;      // [T, B, D, R, H] of W_hh h_{t-1}, only for split cells and with norms
  int first_split_gate = 0;          // the gate that d_gates_h begins with: those before it are to be had in d_gates
  StateView<void> d_h_0;             // [D, B, P]
  StateView<void> d_c_0;             // [D, B, E*H], cells with more states than h
  SequenceView<void> d_projected;    // [T, B, D, P], only when projected
  const int64_t* lengths = nullptr;  // as in forward
  ResetView resets;
  VariantViews variant;
  SequenceView<void> d_unit_weights;  // [1, B, D, K, H] of each row, sums over time
  SequenceView<void> d_norm;          // [1, B, D, N, H] likewise
};

// The gradients of a layer that makes its gates itself, each contiguous and null where it is not wanted, and what they
// need besides the backward pass.
struct LayerGradientViews {
  int64_t input_size = 0;        // I
  const void* x = nullptr;       // [T, B, I], contiguous
  const void* hidden = nullptr;  // [T, B, D, H], contiguous, only when projected
  WeightView w_ih;               // [D, G*H, I]
  void* d_x = nullptr;           // [T, B, I]
  void* d_w_ih = nullptr;        // [D*G*H, I]
  void* d_w_hh = nullptr;        // [D*R*H, P]
  void* d_b_ih = nullptr;        // [D*G*H]
  void* d_b_hh = nullptr;        // [D*R*H], null where it is d_b_ih: of cells that are not split and have R = G
  void* d_w_hr = nullptr;        // [D*P, H], only when projected
};

// What a step is for one row of the batch, in either direction.
enum class RowStep {
  kPlain,
  kReset,     // its state before the step is zero, and no gradient leaves the step for that state
  kInactive,  // beyond its length: results and gradients of the step are zero, the state and its gradient pass through
};

template <class Views>
FUSED_RNN_HD inline RowStep row_step(const Views& views, int64_t time, int64_t row) {
  if (views.lengths != nullptr && time >= views.lengths[row]) return RowStep::kInactive;
  if (views.resets.data == nullptr) return RowStep::kPlain;
  const uint8_t reset = views.resets.data[time * views.resets.time_stride + row * views.resets.row_stride];
  return reset != 0 ? RowStep::kReset : RowStep::kPlain;
}

}  // namespace fused_rnn
