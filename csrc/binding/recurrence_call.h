// What the ops of a recurrence share: the cell's name, the states, lengths and resets, the results, the way to the CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <functional>
#include <string>
#include <tuple>
#include <type_traits>

#include "binding/allocator.h"
#include "binding/tensor_views.h"
#include "cells/table.h"
#include "cpu/dispatch.h"
#include "cpu/runtime/workspace.h"

namespace fused_rnn {

inline int known_cell(const std::string& name) {
  const int index = find_cell(name);
  if (index < 0) {
    std::string known;
    for (int i = 0; i < Cells::kSize; ++i) known += (i > 0 ? ", " : "") + std::string(cell_spec(i).name);
    fail("cell must be one of " + known + ", got \"" + name + "\"");
  }
  return index;
}

inline void check_states(const Checker& check, const Problem& p, const OptionalTensor& h, const char* h_name,
                         const OptionalTensor& c, const char* c_name) {
  check(h, h_name, "[D, B, P]", {p.directions, p.batch, p.output_size});
  if (p.cell.states == 2) {
    check(c, c_name, "[D, B, H]", {p.directions, p.batch, p.hidden_size});
  } else if (c.has_value()) {
    fail(std::string(c_name) + " must be None for cell \"" + p.cell.name + "\", which has no cell state");
  }
}

// Where rows end and start anew: lengths [B] and resets [T, B]. The kernels take a length outside of [0, T] for the
// nearer end, since a look at it here would wait for the device. The result owns what the view of lengths points to.
template <class Views>
OptionalTensor set_ragged(Views& views, const Checker& check, const Problem& p, const OptionalTensor& lengths_given,
                          const OptionalTensor& resets) {
  using torch::headeronly::ScalarType;
  check.indices(lengths_given, "lengths", "[B]", {p.batch}, ScalarType::Long, "int64");
  check.indices(resets, "resets", "[T, B]", {p.time_steps, p.batch}, ScalarType::Bool, "bool");
  const OptionalTensor lengths = with_dense_tail(lengths_given, 0);
  views.lengths = lengths_view(lengths);
  views.resets = reset_view(resets);
  return lengths;
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
BackwardResult run_backward(const std::string& cell, const OptionalTensor& d_output, const OptionalTensor& d_h_n,
                            const OptionalTensor& d_c_n, const OptionalTensor& d_cells, const Tensor& w_hh,
                            const OptionalTensor& w_hr, const Tensor& output, const Tensor& cells, const Tensor& saved,
                            const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& unit_weights,
                            const OptionalTensor& norm, const OptionalTensor& lengths, const OptionalTensor& resets,
                            const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask, bool over_saved,
                            bool allow_tf32, const MakeGradientWork& make_work = nullptr);

}  // namespace fused_rnn
