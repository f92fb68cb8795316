// The cells of files, in the order of their numbers.
//
// The built-in ones come first, of any type of weights. Those under cells/ are the cells that Python has in its own
// words: tools/stream_cells.py writes them, and their weights are float32, as a Stepper has them.
#pragma once

#include <iterator>
#include <type_traits>

#include "cells/table.h"
#include "core/visit.h"
#include "stream/cells/coupled_lstm.h"
#include "stream/cells/hard_sigmoid_gru.h"
#include "stream/cells/hard_sigmoid_lstm.h"
#include "stream/cells/ind_rnn.h"
#include "stream/cells/keras2_gru.h"
#include "stream/cells/keras2_lstm.h"
#include "stream/cells/min_gru.h"
#include "stream/cells/min_lstm.h"
#include "stream/cells/slstm.h"
#include "stream/file_format.h"

namespace fused_rnn {

using FileCells = TypeList<LstmCell, GruCell, ElmanCell<Tanh>, ElmanCell<Relu>, PeepholeLstmCell, own::CoupledLstmCell,
                           own::SlstmCell, own::IndRnnCell, own::MinGruCell, own::MinLstmCell, own::HardSigmoidLstmCell,
                           own::HardSigmoidGruCell, own::Keras2LstmCell, own::Keras2GruCell>;
static_assert(FileCells::kSize == std::size(kFileCells));

template <class Cell, class... Ts>
constexpr bool is_one_of(TypeList<Ts...> /*cells*/) {
  return (std::is_same_v<Cell, Ts> || ...);
}

// Whether matrices of the cell may be kept in less memory than float32 takes.
template <class Cell>
inline constexpr bool kInAnyStorage = is_one_of<Cell>(Cells{});

}  // namespace fused_rnn
