// Cells that were compiled by themselves and loaded at run time: the libraries they come in, and where they are found.
//
// A library holds one cell for one type and the instruction set in use (see cell_module.h). Its cell has an index
// beyond those of cells/table.h, and its schedules are called as the built-in ones are. It is never unloaded. Libraries
// for GPUs are other ones (cuda/loaded_cells.h), of cells that are known in the same way.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cpu/dispatch.h"
#include "cpu/runtime/team.h"

namespace fused_rnn {

// What the schedules of a library call of the program that loads it, so that all cells share one team of threads.
struct CpuRuntime {
  decltype(&fused_rnn::run_team) run_team;
  decltype(&fused_rnn::make_plan) make_plan;
  decltype(&fused_rnn::plan_options) plan_options;
  decltype(&Barrier::make) make_barriers;
  decltype(&Barrier::wait) wait_at_barrier;
};

// What a library offers.
struct CellModule {
  const char* sources;          // names what it was compiled from: see load_cell
  const char* instruction_set;  // of its schedules
  CellSpec cell;                // its index is given by the program
  DataType type;
  const CpuUnit* unit;
};

// The one function of a library, and its name.
using CellModuleFunction = const CellModule& (*)(const CpuRuntime&);
inline constexpr const char* kCellModuleFunction = "fused_rnn_cell_module";

// Loads a library whose cell then is known by its name, for its type. Returns the cell; once more for another type of
// the same cell, and without effect where that is loaded. Throws std::invalid_argument where the file is no such
// library, was compiled from other `sources`, or for an instruction set that is not in use.
CellSpec load_cell(const std::string& path, const std::string& sources);

// For libraries of cells of any kind: the function of that name, and the cell, which then is known by its name and has
// its index. `compiled_from` is what the library says of itself. They throw as load_cell does.
void* function_of_library(const std::string& path, const char* name);
CellSpec add_cell(const std::string& path, const CellSpec& cell, const char* compiled_from, const std::string& sources);

// The loaded cell of that name.
std::optional<CellSpec> find_loaded_cell(std::string_view name);

// The schedules of a cell, built in or loaded. Throws std::invalid_argument where it was not loaded for the type.
const CpuUnit& cpu_unit_of(const CellSpec& cell, DataType type);

}  // namespace fused_rnn
