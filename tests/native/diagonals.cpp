// The schedules of diagonal cells that the tests run, one with gradients of weights, too.
#include "schedules.h"
// (first: what follows needs its names)
#include "cpu/schedules/diagonal_backward.h"
#include "cpu/schedules/diagonal_forward.h"
#include "cpu/schedules/sweep_with_gradients.h"

#include "linear_cells.h"

namespace fused_rnn::test {

template struct Compiled<DiagonalForward<DiagonalCell, float>, ForwardViews>;
template struct Compiled<DiagonalBackward<DiagonalCell, float>, BackwardViews>;
template struct CompiledGradients<DiagonalBackward<DiagonalCell, float>>;
template struct Compiled<DiagonalForward<DiagonalCell, BFloat16>, ForwardViews>;
template struct Compiled<DiagonalBackward<DiagonalCell, BFloat16>, BackwardViews>;
template struct Compiled<DiagonalForward<WeightedDiagonalCell, double>, ForwardViews>;
template struct Compiled<DiagonalBackward<WeightedDiagonalCell, double>, BackwardViews>;

}  // namespace fused_rnn::test
