// What the ops of a recurrence share: checks and views of what all are given, the results, the way to the CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "binding/allocator.h"
#include "binding/tensor_views.h"
#include "cpu/dispatch.h"
#include "cpu/runtime/workspace.h"

namespace fused_rnn {

inline void check_states(const Checker& check, const Problem& p, const OptionalTensor& h, const char* h_name,
                         const OptionalTensor& c, const char* c_name) {
  check(h, h_name, "[D, B, P]", {p.directions, p.batch, p.output_size});
  if (p.cell.states == 2) {
    check(c, c_name, "[D, B, H]", {p.directions, p.batch, p.hidden_size});
  } else if (c.has_value()) {
    fail(std::string(c_name) + " must be None for cell \"" + p.cell.name + "\", which has no cell state");
  }
}

// Owns what the views point to.
struct DenseRows {
  OptionalTensor h_0, c_0, lengths;
};

// The kernels take a length outside of [0, T] for the nearer end, since a look at it here would wait for the device.
template <class Views>
DenseRows set_rows(Views& views, const Checker& check, const Problem& p, const RowTensors& given) {
  using torch::headeronly::ScalarType;
  check_states(check, p, given.h_0, "h_0", given.c_0, "c_0");
  check.indices(given.lengths, "lengths", "[B]", {p.batch}, ScalarType::Long, "int64");
  check.indices(given.resets, "resets", "[T, B]", {p.time_steps, p.batch}, ScalarType::Bool, "bool");
  DenseRows dense{with_dense_tail(given.h_0, 2), with_dense_tail(given.c_0, 2), with_dense_tail(given.lengths, 0)};
  views.h_0 = state_view(dense.h_0);
  views.c_0 = state_view(dense.c_0);
  views.lengths = lengths_view(dense.lengths);
  views.resets = reset_view(given.resets);
  return dense;
}

struct DenseRecurrence {
  DenseRows rows;
  OptionalTensor unit_weights, norm, zoneout, recurrent_mask;
};

template <class Views>
DenseRecurrence set_recurrence(Views& views, const Checker& check, const Problem& p, const RecurrenceTensors& given) {
  check(given.w_hh, "w_hh", "[D, G*H, P]", {p.directions, p.cell.gates * p.hidden_size, p.output_size});
  check(given.w_hr, "w_hr", "[D, P, H]", {p.directions, p.output_size, p.hidden_size});
  views.w_hh = weight_view(given.w_hh);
  views.w_hr = weight_view(given.w_hr);
  DenseRows rows = set_rows(views, check, p, given.rows);
  const auto& [unit_weights, norm, zoneout, recurrent_mask] = given.variant;
  check(unit_weights, "unit_weights", "[D, K, H]", {p.directions, p.cell.unit_weights, p.hidden_size});
  check(norm, "norm", "[D, N, H]", {p.directions, norm_rows(p.cell), p.hidden_size});
  check(zoneout, "zoneout", "[T, B, D, states, H]",
        {p.time_steps, p.batch, p.directions, p.cell.states, p.hidden_size});
  check(recurrent_mask, "recurrent_mask", "[D, B, P]", {p.directions, p.batch, p.output_size});
  DenseRecurrence dense{std::move(rows), with_dense_tail(unit_weights, 2), with_dense_tail(norm, 2),
                        with_dense_tail(zoneout, 3), with_dense_tail(recurrent_mask, 2)};
  views.variant = {state_view(dense.unit_weights), state_view(dense.norm), sequence_view(dense.zoneout),
                   state_view(dense.recurrent_mask)};
  return dense;
}

// Makes the work on the gradients of a backward pass, given where they will lie: d_gates, d_gates_h of cells that split
// and d_projected with a projection.
using MakeGradientWork =
    std::function<GradientWork(const Tensor& d_gates, const Tensor& d_gates_h, const Tensor& d_projected)>;

// Whether a forward pass may find its weights packed: training changes them between two passes, and a single step reads
// them where they lie.
inline bool keeps_weights(const Problem& problem, bool save) { return !save && !is_single_step(problem); }

// Whether packed weights can be compared with where they came from: row by row.
inline bool are_rows(const ForwardViews& views) {
  const auto rows = [](const WeightView& w) { return !w || w.column_stride == 1; };
  return views.w_hh && rows(views.w_hh) && rows(views.w_ih) && rows(views.w_hr);
}

template <class Views>
void run_on_cpu(const Schedule<Views>& schedule, const Problem& problem, const Views& views) {
  const Plan plan = schedule.plan(problem, static_cast<int>(torch::stable::get_num_threads()));
  const auto run_in_memory_of = [&](const Workspace::Key& key, const Problem& p) {
    const Workspace workspace(key, schedule.workspace_bytes(p, plan));
    if (workspace.data() == nullptr) return false;
    schedule.run(p, views, plan, workspace.data());
    return true;
  };
  if constexpr (std::is_same_v<Views, ForwardViews>) {
    const bool may_keep = problem.keeps_weights && are_rows(views);
    if (may_keep && run_in_memory_of(Workspace::key_of(problem, views), problem)) return;
  }
  Problem packing = problem;
  packing.keeps_weights = false;
  run_in_memory_of({}, packing);
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// What a forward pass makes, and the views of it.
struct ForwardBuffers {
  ForwardBuffers(const Problem& p, const Allocator& allocate, bool save)
      : output(allocate(true, {p.time_steps, p.batch, p.directions, p.output_size})),
        h_n(allocate(true, {p.directions, p.batch, p.output_size})),
        c_n(allocate(p.cell.states == 2, {p.directions, p.batch, p.hidden_size})),
        cells(allocate(save && p.cell.states == 2, {p.time_steps, p.batch, p.directions, p.hidden_size})),
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

// The backward pass of a recurrence; with `over_saved` the gate gradients take the place of what was saved. On CPU with
// the work that `make_work` gives, if any.
BackwardResult run_backward(const std::string& cell, const BackwardTensors& given, bool over_saved, bool allow_tf32,
                            const MakeGradientWork& make_work = nullptr);

}  // namespace fused_rnn
