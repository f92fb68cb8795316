// The tensors of a call by name, as an op was given them: they live as long as the call.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fused_rnn {

using Tensor = torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline const OptionalTensor kNoTensor;

// Results that a call does not have are tensors without a handle, until an op returns them (Completed in allocator.h).
inline bool is_absent(const Tensor& tensor) { return tensor.get() == nullptr; }
inline bool is_empty(const Tensor& tensor) { return is_absent(tensor) || tensor.numel() == 0; }

// The states that rows of the batch begin with, where they end and where they are reset.
struct RowTensors {
  const OptionalTensor& h_0 = kNoTensor;      // [D, B, P], none: zeros
  const OptionalTensor& c_0 = kNoTensor;      // [D, B, E*H], of cells with E states besides h
  const OptionalTensor& lengths = kNoTensor;  // [B] int64, none: T
  const OptionalTensor& resets = kNoTensor;   // [T, B] bool, none: nowhere
};

struct VariantTensors {
  const OptionalTensor& unit_weights = kNoTensor;    // [D, K, H]
  const OptionalTensor& norm = kNoTensor;            // [D, N, H]
  const OptionalTensor& zoneout = kNoTensor;         // [T, B, D, states, H]
  const OptionalTensor& recurrent_mask = kNoTensor;  // [D, B, P]
};

// What both passes of a recurrence are given.
struct RecurrenceTensors {
  const Tensor& w_hh;                      // [D, R*H, P]
  const OptionalTensor& w_hr = kNoTensor;  // [D, P, H]
  RowTensors rows = {};
  VariantTensors variant = {};
};

struct ForwardTensors {
  const Tensor& gates;         // [T, B, D, G, H]
  const OptionalTensor& b_hh;  // [D, R*H]
  RecurrenceTensors recurrence;
};

// The gradients that a backward pass begins with, each one optional.
struct IncomingTensors {
  const OptionalTensor& d_output;  // [T, B, D, P]
  const OptionalTensor& d_h_n;     // [D, B, P]
  const OptionalTensor& d_c_n;     // [D, B, E*H]
  const OptionalTensor& d_cells;   // [T, B, D, E*H]
};

struct BackwardTensors {
  IncomingTensors incoming;
  const Tensor& output;  // what the forward pass made: [T, B, D, P]
  const Tensor& cells;   // [T, B, D, E*H], of cells with E states besides h
  const Tensor& saved;   // [T, B, D, S, H]
  RecurrenceTensors recurrence;
};

// A layer, which makes the gates of its input itself. The parameters of both directions are stacked.
struct LayerForwardTensors {
  const Tensor& x;                         // [T, B, I]
  const Tensor& w_ih;                      // [D*G*H, I]
  const OptionalTensor& b_ih;              // [D*G*H]
  const Tensor& w_hh;                      // [D*R*H, P]
  const OptionalTensor& b_hh;              // [D*R*H]
  const OptionalTensor& w_hr = kNoTensor;  // [D*P, H]
  RowTensors rows = {};
  VariantTensors variant = {};  // no norm
};

struct LayerBackwardTensors {
  IncomingTensors incoming;
  LayerForwardTensors layer;  // the biases are not looked at
  const Tensor& output;       // as in BackwardTensors
  const Tensor& cells;
  const Tensor& saved;
  const OptionalTensor& hidden;  // [T, B, D, H], with a projection
};

}  // namespace fused_rnn
