// The Python module fused_rnn._C: what is not a tensor op. Importing it also registers the ops of ops.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "binding/stepper_class.h"
#include "cells/table.h"
#include "cpu/dispatch.h"
#include "cpu/runtime/machine.h"
#include "cpu/runtime/team.h"
#include "cpu/runtime/workspace.h"
#include "cuda/schedule.h"

#if !defined(FUSED_RNN_VERSION) || !defined(FUSED_RNN_CUDA_BUILD)
#error "the build passes FUSED_RNN_VERSION and FUSED_RNN_CUDA_BUILD"
#endif

namespace py = pybind11;

namespace fused_rnn {

namespace {

CellSpec spec_by_name(const std::string& name) {
  const int index = find_cell(name);
  if (index < 0) throw py::value_error("unknown cell \"" + name + "\"");
  return cell_spec(index);
}

DataType type_by_name(const std::string& name) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kBFloat16, DataType::kFloat16}) {
    if (name == name_of(type)) return type;
  }
  throw py::value_error("dtype must be float32, float64, bfloat16 or float16, got \"" + name + "\"");
}

std::vector<std::string> cell_names() {
  std::vector<std::string> names;
  for (int i = 0; i < Cells::kSize; ++i) names.emplace_back(cell_spec(i).name);
  return names;
}

py::dict cell_spec_dict(const std::string& name) {
  const CellSpec spec = spec_by_name(name);
  py::dict result;
  result["gates"] = spec.gates;
  result["states"] = spec.states;
  result["saved"] = spec.saved;
  result["split"] = spec.split;
  result["gradients"] = spec.gradients();
  result["unit_weights"] = spec.unit_weights;
  result["norm_groups"] = spec.norm_groups;
  return result;
}

Problem make_problem(const std::string& cell, const std::string& dtype, int64_t time_steps, int64_t batch,
                     int64_t directions, int64_t hidden_size, int64_t proj_size, bool normalized, bool zoneout,
                     bool recurrent_mask, int64_t input_size) {
  if (time_steps < 0 || batch < 0 || hidden_size < 1 || proj_size < 0 || input_size < 0 || directions < 1 ||
      directions > 2) {
    throw py::value_error(
        "a plan needs time_steps, batch, proj_size, input_size >= 0; hidden_size >= 1; directions 1 or 2");
  }
  const int64_t output_size = proj_size > 0 ? proj_size : hidden_size;
  return {.cell = spec_by_name(cell),
          .type = type_by_name(dtype),
          .time_steps = time_steps,
          .batch = batch,
          .directions = directions,
          .hidden_size = hidden_size,
          .output_size = output_size,
          .backward = false,
          .projected = proj_size > 0,
          .normalized = normalized,
          .zoneout = zoneout,
          .recurrent_mask = recurrent_mask,
          .input_size = input_size};
}

py::dict plan_dict(const std::string& cell, const std::string& dtype, int64_t time_steps, int64_t batch,
                   int64_t directions, int64_t hidden_size, int64_t proj_size, bool normalized, bool zoneout,
                   bool recurrent_mask, int64_t input_size, bool training, int threads) {
  if (threads < 1) throw py::value_error("a plan needs threads >= 1");
  Problem problem = make_problem(cell, dtype, time_steps, batch, directions, hidden_size, proj_size, normalized,
                                 zoneout, recurrent_mask, input_size);
  const auto add = [&](py::dict& to, const char* key, const auto& schedule) {
    const Plan plan = schedule.plan(problem, threads);
    py::dict part;
    part["problem"] = to_string(problem);
    part["threads"] = plan.threads();
    part["direction_parts"] = plan.direction_parts;
    part["row_parts"] = plan.row_parts;
    part["unit_parts"] = plan.unit_parts;
    part["workspace_bytes"] = schedule.workspace_bytes(problem, plan);
    part["why"] = describe(plan, problem, threads);
    py::dict others;
    const std::vector<Plan> options = schedule.options(problem, threads);
    for (size_t i = 1; i < options.size(); ++i) {
      others[py::str(name_of(options[i], problem))] = expectation(options[i]);
    }
    part["others"] = others;
    to[key] = part;
  };
  py::dict result;
  result["schedule"] = problem.normalized ? "cpu_rows" : is_single_step(problem) ? "cpu_single_step" : "cpu_sweep";
  result["instruction_set"] = active_cpu_instruction_set();
  add(result, "forward", active_cpu_unit().forward);
  problem.backward = true;
  problem.input_size = 0;  // of the forward pass alone
  if (training) add(result, "backward", active_cpu_unit().backward);
  return result;
}

// The CUDA schedules for a problem, the chosen one first; `device` is the index of one that is here, or the
// capability, multiprocessors and shared bytes of one to be imagined.
using DeviceChoice = std::variant<int, std::tuple<int, int, int>>;

std::vector<cuda::Option> options_on(const Problem& problem, bool allow_tf32, const DeviceChoice& device) {
  if (const auto* imagined = std::get_if<1>(&device)) {
    const auto [capability, multiprocessors, shared_bytes] = *imagined;
    return cuda::options(problem, allow_tf32, {capability, multiprocessors, shared_bytes});
  }
#if defined(FUSED_RNN_CUDA)
  const cuda::CurrentDevice current(std::get<0>(device));
  return cuda::options_here(problem, allow_tf32);
#else
  throw py::value_error("CUDA kernels are " FUSED_RNN_CUDA_BUILD);
#endif
}

py::list cuda_options(const std::string& cell, const std::string& dtype, int64_t time_steps, int64_t batch,
                      int64_t directions, int64_t hidden_size, int64_t proj_size, bool normalized, bool zoneout,
                      bool recurrent_mask, int64_t input_size, bool backward, bool allow_tf32,
                      const DeviceChoice& device) {
  Problem problem = make_problem(cell, dtype, time_steps, batch, directions, hidden_size, proj_size, normalized,
                                 zoneout, recurrent_mask, input_size);
  problem.backward = backward;
  std::vector<cuda::Option> options = options_on(problem, allow_tf32, device);
  if (const char* forced = std::getenv("FUSED_RNN_CUDA_SCHEDULE"); forced != nullptr && *forced != '\0') {
    std::stable_partition(options.begin(), options.end(),
                          [&](const cuda::Option& option) { return std::string(forced) == option.name; });
  }
  py::list all;
  for (const cuda::Option& option : options) {
    py::dict one;
    one["schedule"] = option.name;
    one["refused"] = !option.refusal.empty();
    one["why"] = cuda::describe(option);
    one["step_us"] = option.step_us;
    one["blocks"] = option.groups * option.shape.ranks;
    one["workspace_bytes"] = option.workspace_bytes;
    all.append(one);
  }
  return all;
}

std::map<std::string, std::string> build_info() {
  std::string sets;
  for (const std::string& name : cpu_instruction_sets()) sets += (sets.empty() ? "" : ", ") + name;
  return {
      {"version", FUSED_RNN_VERSION}, {"compiler", __VERSION__},
      {"instruction_sets", sets},     {"active_instruction_set", active_cpu_instruction_set()},
      {"cuda", FUSED_RNN_CUDA_BUILD},
  };
}

}  // namespace

}  // namespace fused_rnn

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native part of fused_rnn: cells, plans and build information; the ops are in torch.ops.fused_rnn.";
  m.attr("norm_epsilon") = fused_rnn::kNormEpsilon;
  m.def("cell_names", &fused_rnn::cell_names);
  m.def("cell_spec", &fused_rnn::cell_spec_dict, py::arg("name"));
  m.def("build_info", &fused_rnn::build_info);
  m.def("kept_bytes", &fused_rnn::Workspace::waiting_bytes);
  m.def("is_amd_processor", &fused_rnn::is_amd_processor);
  m.def("threads_are_lost", &fused_rnn::threads_are_lost);
  m.def("instruction_sets", &fused_rnn::cpu_instruction_sets);
  m.def("active_instruction_set", &fused_rnn::active_cpu_instruction_set);
  m.def("plan", &fused_rnn::plan_dict, py::arg("cell"), py::arg("dtype"), py::arg("time_steps"), py::arg("batch"),
        py::arg("directions"), py::arg("hidden_size"), py::arg("proj_size"), py::arg("normalized"), py::arg("zoneout"),
        py::arg("recurrent_mask"), py::arg("input_size"), py::arg("training"), py::arg("threads"));
  m.def("cuda_options", &fused_rnn::cuda_options, py::arg("cell"), py::arg("dtype"), py::arg("time_steps"),
        py::arg("batch"), py::arg("directions"), py::arg("hidden_size"), py::arg("proj_size"), py::arg("normalized"),
        py::arg("zoneout"), py::arg("recurrent_mask"), py::arg("input_size"), py::arg("backward"),
        py::arg("allow_tf32"), py::arg("device"));
  fused_rnn::define_stepper(m);
}
