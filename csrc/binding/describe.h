// From the tensors of a call to its Problem.
#pragma once

#include <string>

#include "binding/checks.h"
#include "binding/tensors.h"
#include "cells/table.h"
#include "cpu/loaded_cells.h"

namespace fused_rnn {

inline CellSpec known_cell(const std::string& name) {
  if (const int index = find_cell(name); index >= 0) return cell_spec(index);
  if (const std::optional<CellSpec> loaded = find_loaded_cell(name); loaded.has_value()) return *loaded;
  std::string known;
  for (int i = 0; i < Cells::kSize; ++i) known += (i > 0 ? ", " : "") + std::string(cell_spec(i).name);
  fail("cell must be one of " + known + ", got \"" + name + "\"");
}

// How far a sequence extends. With an input size it is the input of a layer, whose parameters are stacked.
struct Extent {
  int64_t time_steps, batch, directions, heads, input_size = 0;
};

// Whether D counts the heads of one direction or of two.
inline bool counts_heads(int64_t directions, int64_t heads) {
  constexpr int64_t kMost = 1 << 20;  // so that no product of sizes overflows
  if (heads < 1 || heads > kMost) {
    fail("heads must be 1 to " + std::to_string(kMost) + ", got " + std::to_string(heads));
  }
  return directions == heads || directions == 2 * heads;
}

inline Extent extent_of(const Tensor& sequence, const char* name, int64_t heads) {  // [T, B, D, ...]
  const Shape shape = shape_of(sequence);
  if (shape.size() < 4 || !counts_heads(shape[2], heads)) {
    fail(std::string(name) + " must have shape [T, B, D, ...] with D = " + std::to_string(heads) + " or " +
         std::to_string(2 * heads) + ", got " + to_string(shape));
  }
  return {shape[0], shape[1], shape[2], heads};
}

inline Extent extent_of_layer(const Shape& x, int64_t directions, int64_t heads = 1) {  // [T, B, I]
  if (x.size() != 3 || x[2] < 1) fail("x must have shape [T, B, I], got " + to_string(x));
  if (!counts_heads(directions, heads)) {
    fail("directions must be 1 or 2, " + (heads > 1 ? "each of " + std::to_string(heads) + " heads, " : std::string()) +
         "got " + std::to_string(directions));
  }
  return {x[0], x[1], directions, heads, x[2]};
}

// The forward problem. H and P are those of w_hh, [D, R*H, P] or stacked [D*R*H, P]; with R = 0 they are the same.
inline Problem describe(const std::string& cell, DataType type, const Extent& extent, const Tensor& w_hh,
                        const OptionalTensor& w_hr, const VariantTensors& variant = {}) {
  const CellSpec spec = known_cell(cell);
  const bool stacked = extent.input_size > 0;
  const auto of_cell = [&] { return " for cell \"" + cell + "\""; };
  if (w_hr.has_value() && !spec.projectable) fail("w_hr must be None" + of_cell() + ", which cannot project");
  if (variant.unit_weights.has_value() != (spec.unit_weights > 0)) {
    fail("unit_weights must be " + std::string(spec.unit_weights > 0 ? "given" : "None") + of_cell());
  }
  if (variant.norm.has_value() && spec.norm_groups == 0) fail("norm must be None" + of_cell());
  if (variant.recurrent_mask.has_value() && spec.recurrent_gates == 0)
    fail("recurrent_mask must be None" + of_cell() + ", whose gates do not read h");
  if (variant.zoneout.has_value() && w_hr.has_value()) fail("zoneout must be None where there is a w_hr");
  if (extent.heads > 1 && w_hr.has_value()) fail("w_hr must be None where there are several heads");

  const size_t dimensions = stacked ? 2 : 3;
  const int64_t row_groups = stacked ? extent.directions * spec.recurrent_gates : spec.recurrent_gates;
  Shape weights = shape_of(w_hh);
  const auto refuse_w_hh = [&](const std::string& expected) {
    const std::string rows = (stacked ? "[D*" : "[D, ") + std::to_string(spec.recurrent_gates) + "*H, ";
    fail("w_hh must have shape " + rows + expected + ", got " + to_string(shape_of(w_hh)));
  };
  if (weights.size() != dimensions) refuse_w_hh("P]");
  const int64_t rows = weights[dimensions - 2], output_size = weights.back();
  const int64_t hidden_size = row_groups > 0 ? rows / row_groups : output_size;
  if (hidden_size < 1 || rows != hidden_size * row_groups || output_size < 1) refuse_w_hh("P]");
  if (!w_hr.has_value() && output_size != hidden_size) {
    weights.front() = stacked ? rows : extent.directions;
    weights.back() = hidden_size;
    refuse_w_hh("H] = " + to_string(weights));
  }
  return {.cell = spec,
          .type = type,
          .time_steps = extent.time_steps,
          .batch = extent.batch,
          .directions = extent.directions,
          .hidden_size = hidden_size,
          .output_size = output_size,
          .backward = false,
          .projected = w_hr.has_value(),
          .normalized = variant.norm.has_value(),
          .zoneout = variant.zoneout.has_value(),
          .recurrent_mask = variant.recurrent_mask.has_value(),
          .input_size = extent.input_size,
          .heads = extent.heads};
}

}  // namespace fused_rnn
