// The list of cells: adding one here makes it known to every schedule and to the ops.
#pragma once

#include <string_view>

#include "cells/elman.h"
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/peephole_lstm.h"
#include "core/visit.h"

namespace fused_rnn {

using Cells = TypeList<LstmCell, GruCell, ElmanCell<Tanh>, ElmanCell<Relu>, PeepholeLstmCell>;

// The position of the cell called `name` in Cells, or -1.
inline int find_cell(std::string_view name) {
  int found = -1, position = 0;
  for_each_type(Cells{}, [&](auto tag) {
    if (name == decltype(tag)::type::kName) found = position;
    ++position;
  });
  return found;
}

inline CellSpec cell_spec(int index) {
  CellSpec spec{};
  visit_type(Cells{}, index, [&](auto tag) { spec = spec_of<typename decltype(tag)::type>(index); });
  return spec;
}

}  // namespace fused_rnn
