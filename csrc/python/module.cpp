// The Python module fused_rnn._C: what is not a tensor op. It needs the library of the ops, which it loads.
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

#include "cpu/loaded_cells.h"
#include "cpu/runtime/machine.h"
#include "cpu/runtime/team.h"
#include "cpu/runtime/workspace.h"
#include "cuda/loaded_cells.h"
#include "cuda/schedule.h"
#include "python/python_problem.h"
#include "python/short_calls.h"
#include "python/stepper_class.h"

#if !defined(FUSED_RNN_VERSION) || !defined(FUSED_RNN_CUDA_BUILD) || !defined(FUSED_RNN_CELL_FLAGS) || \
    !defined(FUSED_RNN_HEADERS_MARK)
#error "the build passes FUSED_RNN_VERSION, _CUDA_BUILD, _CELL_FLAGS and _HEADERS_MARK"
#endif

namespace py = pybind11;

namespace fused_rnn {

namespace {

std::vector<std::string> cell_names() {
  std::vector<std::string> names;
  for (int i = 0; i < Cells::kSize; ++i) names.emplace_back(cell_spec(i).name);
  return names;
}

py::dict cell_spec_dict(const std::string& name) {
  const CellSpec spec = known_cell(name);
  py::dict result;
  result["gates"] = spec.gates;
  result["states"] = spec.states;
  result["saved"] = spec.saved;
  result["split"] = spec.split;
  result["gradients"] = spec.gradients();
  result["unit_weights"] = spec.unit_weights;
  result["norm_groups"] = spec.norm_groups;
  result["recurrent_gates"] = spec.recurrent_gates;
  return result;
}

// Loads a library of a cell for GPUs, as load_cell does one for the CPU. It need not find a GPU.
std::string load_cuda_cell(const std::string& path, const std::string& sources) {
  void* const function = function_of_library(path, cuda::kCellModuleFunction);
  const cuda::CellModule& module = reinterpret_cast<cuda::CellModuleFunction>(function)();
  cuda::add_kernels(add_cell(path, module.cell, module.sources, sources), module.type, *module.kernels);
  return module.cell.name;
}

py::dict plan_dict(const py::object& named, bool training, int threads) {
  if (threads < 1) throw py::value_error("a plan needs threads >= 1");
  Problem problem = problem_of(named);
  const auto add = [&](py::dict& to, const char* key, const auto& schedule) {
    const Plan plan = schedule.plan(problem, threads);
    py::dict part;
    part["problem"] = to_string(problem);
    part["threads"] = plan.threads();
    part["direction_parts"] = plan.direction_parts;
    part["row_parts"] = plan.row_parts;
    part["unit_parts"] = plan.unit_parts;
    part["step_cycles"] = plan.step_cycles;
    part["workspace_bytes"] = schedule.workspace_bytes(problem, plan);
    if (problem.rounds_factors) part["factors"] = schedule.rounds_factors ? "rounded to bfloat16" : "exact";
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
  result["schedule"] = problem.normalized                  ? "cpu_rows"
                       : is_single_step(problem)           ? "cpu_single_step"
                       : problem.cell.recurrent_gates == 0 ? "cpu_diagonal"
                                                           : "cpu_sweep";
  result["instruction_set"] = active_cpu_instruction_set();
  const CpuUnit& unit = cpu_unit_of(problem.cell, problem.type);
  add(result, "forward", unit.forward(problem));
  problem.backward = true;
  problem.input_size = 0;  // of the forward pass alone
  if (training) add(result, "backward", unit.backward(problem));
  return result;
}

// The CUDA schedules for a problem, the chosen one first; `device` is the index of one that is here, or the
// capability, multiprocessors and shared bytes of one to be imagined.
using DeviceChoice = std::variant<int, std::tuple<int, int, int>>;

std::vector<cuda::Option> options_on(const Problem& problem, const DeviceChoice& device) {
  if (const auto* imagined = std::get_if<1>(&device)) {
    const auto [capability, multiprocessors, shared_bytes] = *imagined;
    return cuda::options(problem, {capability, multiprocessors, shared_bytes});
  }
#if defined(FUSED_RNN_CUDA)
  const cuda::CurrentDevice current(std::get<0>(device));
  return cuda::options_here(problem);
#else
  throw py::value_error("CUDA kernels are " FUSED_RNN_CUDA_BUILD);
#endif
}

py::list cuda_options(const py::object& named, bool backward, const DeviceChoice& device) {
  Problem problem = problem_of(named);
  problem.backward = backward;
  std::vector<cuda::Option> options = options_on(problem, device);
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
    one["blocks"] = option.groups * std::max(option.shape.ranks, 1);
    one["workspace_bytes"] = option.all_workspace_bytes();
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
  m.attr("cell_flags") = FUSED_RNN_CELL_FLAGS;  // JSON: of the compiler, "common" and for each vector instruction set
  m.attr("headers_mark") = FUSED_RNN_HEADERS_MARK;  // of fused_rnn/_cell_headers.py
  m.def("cell_names", &fused_rnn::cell_names);
  m.def("cell_spec", &fused_rnn::cell_spec_dict, py::arg("name"));
  m.def(
      "load_cell",
      [](const std::string& path, const std::string& sources) {
        return std::string(fused_rnn::load_cell(path, sources).name);
      },
      py::arg("path"), py::arg("sources"));
  m.def("load_cuda_cell", &fused_rnn::load_cuda_cell, py::arg("path"), py::arg("sources"));
  m.def("build_info", &fused_rnn::build_info);
  m.def("kept_bytes", &fused_rnn::Workspace::waiting_bytes);
  m.def("is_amd_processor", &fused_rnn::is_amd_processor);
  m.def("threads_are_lost", &fused_rnn::threads_are_lost);
  m.def("instruction_sets", &fused_rnn::cpu_instruction_sets);
  m.def("active_instruction_set", &fused_rnn::active_cpu_instruction_set);
  m.def("active_isa", &fused_rnn::active_cpu_isa);
  m.def("plan", &fused_rnn::plan_dict, py::arg("problem"), py::arg("training"), py::arg("threads"));
  m.def("cuda_options", &fused_rnn::cuda_options, py::arg("problem"), py::arg("backward"), py::arg("device"));
  fused_rnn::define_stepper(m);
  fused_rnn::define_short_calls(m);
}
