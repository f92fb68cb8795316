// The problem that Python names: an object with the fields of fused_rnn/_ops.py:Problem.
#pragma once

#include <pybind11/pybind11.h>

#include <limits>
#include <string>

#include "binding/describe.h"

namespace fused_rnn {

inline DataType type_by_name(const std::string& name) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kBFloat16, DataType::kFloat16}) {
    if (name == std::string("torch.") + name_of(type)) return type;
  }
  throw pybind11::value_error("dtype must be float32, float64, bfloat16 or float16, got " + name);
}

// Its forward pass.
inline Problem problem_of(const pybind11::object& named) {
  const auto size = [&](const char* name, int64_t least, int64_t most = std::numeric_limits<int64_t>::max()) {
    const auto value = named.attr(name).cast<int64_t>();
    if (value >= least && value <= most) return value;
    throw pybind11::value_error(std::string(name) + " of a problem cannot be " + std::to_string(value));
  };
  const auto flag = [&](const char* name) { return named.attr(name).cast<bool>(); };
  const int64_t heads = size("heads", 1);
  const int64_t hidden_size = size("hidden_size", 1), proj_size = size("proj_size", 0);
  return {.cell = known_cell(named.attr("cell").cast<std::string>()),
          .type = type_by_name(pybind11::str(named.attr("dtype"))),
          .time_steps = size("time_steps", 0),
          .batch = size("batch", 0),
          .directions = heads * size("directions", 1, 2),
          .hidden_size = hidden_size,
          .output_size = proj_size > 0 ? proj_size : hidden_size,
          .backward = false,
          .projected = proj_size > 0,
          .normalized = flag("normalized"),
          .zoneout = flag("zoneout"),
          .recurrent_mask = flag("recurrent_mask"),
          .input_size = size("input_size", 0),
          .rounds_factors = flag("rounds_factors"),
          .heads = heads};
}

}  // namespace fused_rnn
