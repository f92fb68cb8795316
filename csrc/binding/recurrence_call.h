// What the ops of a recurrence share: checks and views of what all are given, the results, the way to the CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <string>
#include <tuple>
#include <type_traits>

#include "binding/allocator.h"
#include "binding/tensor_views.h"
#include "cpu/run.h"

namespace fused_rnn {

// The states at one end of a sequence, or their gradients.
inline void read_states(Reader& read, const Problem& p, const OptionalTensor& h, const char* h_name,
                        StateView<const void>& h_view, const OptionalTensor& c, const char* c_name,
                        StateView<const void>& c_view) {
  h_view = read.state(h, h_name, "[D, B, P]", {p.directions, p.batch, p.output_size});
  if (p.cell.states > 1) {
    c_view = read.state(c, c_name, "[D, B, E*H]", {p.directions, p.batch, p.cell.cell_states() * p.hidden_size});
  } else if (c.has_value()) {
    fail(std::string(c_name) + " must be None for cell \"" + p.cell.name + "\", which has no cell state");
  }
}

// The kernels take a length outside of [0, T] for the nearer end, since a look at it here would wait for the device.
template <class Views>
void read_rows(Views& views, Reader& read, const Problem& p, const RowTensors& given) {
  using torch::headeronly::ScalarType;
  read_states(read, p, given.h_0, "h_0", views.h_0, given.c_0, "c_0", views.c_0);
  read.typed(given.lengths, "lengths", "[B]", {p.batch}, ScalarType::Long, "int64");
  read.typed(given.resets, "resets", "[T, B]", {p.time_steps, p.batch}, ScalarType::Bool, "bool");
  if (const Tensor* const lengths = read.dense(given.lengths, 0)) {
    views.lengths = static_cast<const int64_t*>(lengths->const_data_ptr());
  }
  if (const OptionalTensor& resets = given.resets; resets.has_value() && resets->numel() > 0) {
    views.resets = {static_cast<const uint8_t*>(resets->const_data_ptr()), resets->stride(0), resets->stride(1)};
  }
}

template <class Views>
void read_variant(Views& views, Reader& read, const Problem& p, const VariantTensors& given) {
  const auto& [unit_weights, norm, zoneout, recurrent_mask] = given;
  views.variant = {
      read.state(unit_weights, "unit_weights", "[D, K, H]", {p.directions, p.cell.unit_weights, p.hidden_size}),
      read.state(norm, "norm", "[D, N, H]", {p.directions, norm_rows(p.cell), p.hidden_size}),
      read.sequence(zoneout, "zoneout", "[T, B, D, states, H]",
                    {p.time_steps, p.batch, p.directions, p.cell.states, p.hidden_size}),
      read.state(recurrent_mask, "recurrent_mask", "[D, B, P]", {p.directions, p.batch, p.output_size})};
}

template <class Views>
void read_recurrence(Views& views, Reader& read, const Problem& p, const RecurrenceTensors& given) {
  const int64_t rows = p.cell.recurrent_gates * p.hidden_size;
  views.w_hh = read.weight(given.w_hh, "w_hh", "[D, R*H, P]", {p.directions, rows, p.output_size});
  views.w_hr = read.weight(given.w_hr, "w_hr", "[D, P, H]", {p.directions, p.output_size, p.hidden_size});
  read_rows(views, read, p, given.rows);
  read_variant(views, read, p, given.variant);
}

// Whether a forward pass may find its weights packed: training changes them between two passes, and a single step reads
// them where they lie.
inline bool keeps_weights(const Problem& problem, bool save) { return !save && !is_single_step(problem); }

inline int max_threads() { return static_cast<int>(torch::stable::get_num_threads()); }

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// What a forward pass makes, and the views of it.
struct ForwardBuffers {
  ForwardBuffers(const Problem& p, const Allocator& allocate, bool save)
      : output(allocate(true, {p.time_steps, p.batch, p.directions, p.output_size})),
        h_n(allocate(true, {p.directions, p.batch, p.output_size})),
        c_n(allocate(p.cell.states > 1, {p.directions, p.batch, p.cell.cell_states() * p.hidden_size})),
        cells(allocate(save && p.cell.states > 1,
                       {p.time_steps, p.batch, p.directions, p.cell.cell_states() * p.hidden_size})),
        saved(allocate(save, {p.time_steps, p.batch, p.directions, saved_values(p), p.hidden_size})),
        hidden(allocate(save && p.projected, {p.time_steps, p.batch, p.directions, p.hidden_size})) {}

  void view(ForwardViews& views) const {
    views.output = sequence_view<void>(output);
    views.h_n = state_view<void>(h_n);
    views.c_n = state_view<void>(c_n);
    views.cells = sequence_view<void>(cells);
    views.saved = sequence_view<void>(saved);
    views.hidden = sequence_view<void>(hidden);
  }

  ForwardResult result() const { return {output, h_n, c_n, cells, saved, hidden}; }

  Tensor output, h_n, c_n, cells, saved, hidden;
};

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct BackwardOptions {
  bool in_place;  // the gate gradients take the place of what was saved
  bool round_factors;
  int64_t heads = 1;  // of one direction
};

// The backward pass of a recurrence. On CPU with the gradients of a layer around it, if any.
BackwardResult run_backward(const std::string& cell, const BackwardTensors& given, const BackwardOptions& options,
                            const LayerGradientViews* layer = nullptr);

}  // namespace fused_rnn
