// The description of one recurrence: everything a schedule needs to decide how to run it.
#pragma once

#include <cstdint>

namespace fused_rnn {

enum class DataType { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr const char* name_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat64:
      return "float64";
    case DataType::kBFloat16:
      return "bfloat16";
    case DataType::kFloat16:
      return "float16";
  }
  return "unknown";
}

constexpr int64_t element_size(DataType type) {  // bytes
  return type == DataType::kFloat64 ? 8 : type == DataType::kFloat32 ? 4 : 2;
}

// The type in which numbers of a type are computed, and summed up.
constexpr DataType computed_in(DataType type) {
  return type == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

// What the schedules need to know of a cell; made from the cell's own constants by cells/table.h.
struct CellSpec {
  const char* name;
  int index;            // position in the table of cells
  int gates;            // pre-activations per unit
  int states;           // h, and up to three more, which lie one after the other where LSTM has c
  int saved;            // values per unit and step that backward needs besides the states
  bool split;           // d_gates_h differs from d_gates_x
  bool projectable;     // the gates read h and the update does not read that of its own unit: it may be a projection
  int unit_weights;     // trained or fixed numbers of every unit that enter the update
  int norm_groups;      // sets of gates that a layer norm joins; 0: the cell has no normalized form
  int joint_gates;      // the first gates, of which d_gates_h equals d_gates
  int recurrent_gates;  // R: the first gates, which W_hh and b_hh have rows for

  // Of one unit and step that differ.
  int gradients() const { return gates + (split ? recurrent_gates - joint_gates : 0); }
  int cell_states() const { return states - 1; }                   // E: those besides h
  int made_states() const { return states > 1 ? states - 1 : 1; }  // that backward reads as the cell made them
};

struct Problem {
  CellSpec cell;
  DataType type;
  int64_t time_steps;   // T
  int64_t batch;        // B
  int64_t directions;   // D: 1, or 2 of which the second runs backwards in time; each once for each of its heads
  int64_t hidden_size;  // H; with heads that of one
  int64_t output_size;  // P: the projected size, or H
  bool backward;
  bool projected;               // h is W_hr times what the cell makes
  bool normalized = false;      // layer norms stand before the recurrent gates, and before the c that h is made of
  bool zoneout = false;         // a part of the state before the step stays
  bool recurrent_mask = false;  // h is multiplied by a mask where it enters W_hh
  int64_t input_size = 0;       // I, of a forward pass that makes the gates of x itself; 0: the gates are given
  bool keeps_weights = false;   // the workspace is as a pass of these weights' key left it, or zeros
  bool quantized = false;       // weights are int8, and what they multiply is made int8 on the way
  bool rounds_factors = false;  // of float32 GEMMs: to TF32 on CUDA, on CPU to bfloat16 where it multiplies that
  int64_t heads = 1;            // of one direction: units with all that is theirs, between which W_hh has no entries
};

// Whether the problem has something that the plain schedules do not know.
constexpr bool is_variant(const Problem& p) {
  return p.normalized || p.zoneout || p.recurrent_mask || p.cell.unit_weights > 0;
}

// A step from x that is alone. The weights' columns are contiguous then. (Inlined, so that the units of the instruction
// sets leave no copy to share.)
[[gnu::always_inline]] constexpr bool is_single_step(const Problem& p) {
  return p.time_steps == 1 && p.input_size > 0 && !p.projected && !p.quantized && !is_variant(p);
}

// What the forward pass saves per unit and step, in this order: the cell's own values; with zoneout the states as the
// cell made them (h alone where there is no other); with norms the recurrent gates before theirs.
constexpr int saved_values(const Problem& p) {
  return p.cell.saved + (p.zoneout ? p.cell.made_states() : 0) + (p.normalized ? p.cell.gates : 0);
}

// Rows of the parameters of the norms: gain and bias of each recurrent gate, then, for cells with two states, of c.
constexpr int norm_rows(const CellSpec& cell) { return 2 * cell.gates + (cell.states == 2 ? 2 : 0); }

constexpr double kNormEpsilon = 1e-5;  // added to the variance, as in torch.nn.LayerNorm

}  // namespace fused_rnn
