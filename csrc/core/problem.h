// A printable description of one recurrence: everything a schedule needs to decide how to run it.
#pragma once

#include <cstdint>
#include <string>

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

// What the schedules need to know of a cell; made from the cell's own constants by cells/table.h.
struct CellSpec {
  const char* name;
  int index;         // position in the table of cells
  int gates;         // pre-activations per unit
  int states;        // 1: h; 2: h and c
  int saved;         // values per unit and step that backward needs besides the states
  bool split;        // d_gates_h differs from d_gates_x
  bool projectable;  // the update does not read h of its own unit, so h may be a projection
};

struct Problem {
  CellSpec cell;
  DataType type;
  int64_t time_steps;   // T
  int64_t batch;        // B
  int64_t directions;   // D: 1, or 2 of which the second runs backwards in time
  int64_t hidden_size;  // H
  int64_t output_size;  // P: the projected size, or H
  bool backward;
  bool projected;  // h is W_hr times what the cell makes
};

inline std::string to_string(const Problem& problem) {
  std::string text = problem.cell.name;
  text += " T=" + std::to_string(problem.time_steps) + " B=" + std::to_string(problem.batch);
  text += " D=" + std::to_string(problem.directions) + " H=" + std::to_string(problem.hidden_size);
  if (problem.projected) text += " P=" + std::to_string(problem.output_size);
  return text + " " + name_of(problem.type) + (problem.backward ? " backward" : " forward");
}

}  // namespace fused_rnn
