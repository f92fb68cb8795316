// A problem in words. Apart from problem.h, since <string> is most of what a small CUDA kernel takes to compile.
#pragma once

#include <string>

#include "core/problem.h"

namespace fused_rnn {

inline std::string to_string(const Problem& problem) {
  std::string text = problem.cell.name;
  text += " T=" + std::to_string(problem.time_steps) + " B=" + std::to_string(problem.batch);
  text += " D=" + std::to_string(problem.directions / problem.heads) + " H=" + std::to_string(problem.hidden_size);
  if (problem.heads > 1) text += " heads=" + std::to_string(problem.heads);
  if (problem.projected) text += " P=" + std::to_string(problem.output_size);
  if (problem.input_size > 0) text += " I=" + std::to_string(problem.input_size);
  if (problem.normalized) text += " layer_norm";
  if (problem.zoneout) text += " zoneout";
  if (problem.recurrent_mask) text += " recurrent_dropout";
  if (problem.quantized) text += " int8";
  if (problem.rounds_factors) text += " rounded_factors";
  return text + " " + name_of(problem.type) + (problem.backward ? " backward" : " forward");
}

}  // namespace fused_rnn
