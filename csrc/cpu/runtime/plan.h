// How the threads share one recurrence, chosen by a small model of a time step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/problem.h"

namespace fused_rnn {

// The tile shapes of one instruction set, as far as the choice depends on them.
struct Tiling {
  int lanes;        // units of one vector in the problem's compute type
  int block_units;  // units of one block of packed weights
  int columns;      // vectors of one reduction index of a block
  int tile_rows;    // most rows of a tile
  int reduction;    // reduction indices per hidden unit of the left operand (backward sums over the gates); 0: none
  int64_t blocks;   // blocks of one direction
  bool whole_rows = false;  // the threads may not share the units of a row
  int terms = 1;            // reduction indices that one multiplication takes
};

// threads = direction_parts * row_parts * unit_parts. Threads that differ only in their unit part exchange h at a
// barrier each step, where gates read it; all others never meet.
struct Plan {
  int direction_parts = 1;
  int row_parts = 1;
  int unit_parts = 1;
  double step_cycles = 0;  // the model's estimate of one time step

  int threads() const { return direction_parts * row_parts * unit_parts; }
};

Plan make_plan(const Problem& problem, const Tiling& tiling, int threads);

// The best plan of each kind, by directions, rows, units or several of them; the one that make_plan chooses is the
// first.
std::vector<Plan> plan_options(const Problem& problem, const Tiling& tiling, int threads);

// What the plan does, in a few words.
std::string name_of(const Plan& plan, const Problem& problem);

// What a step was expected to take, and of which machine that was expected.
std::string expectation(const Plan& plan);

// One sentence on what the plan does and why.
std::string describe(const Plan& plan, const Problem& problem, int threads);

}  // namespace fused_rnn
