// The schedules of variants that the tests run: sweeps, and those of whole rows where there are layer norms.
#include "schedules.h"
// (first: what follows needs its names)
#include "cells/peephole_lstm.h"
#include "cpu/schedules/rows_backward.h"
#include "cpu/schedules/rows_forward.h"
#include "cpu/schedules/sweep_forward.h"
#include "cpu/schedules/sweep_with_gradients.h"

#include "linear_cells.h"

namespace fused_rnn::test {

template struct Compiled<VariedForward<WeightedCell, float>, ForwardViews>;
template struct Compiled<VariedBackward<WeightedCell, float>, BackwardViews>;
template struct Compiled<VariedForward<TwoStateCell, double>, ForwardViews>;
template struct Compiled<VariedBackward<TwoStateCell, double>, BackwardViews>;
template struct CompiledGradients<VariedBackward<TwoStateCell, double>>;
template struct Compiled<VariedForward<IdentityCell, BFloat16>, ForwardViews>;
template struct Compiled<VariedBackward<IdentityCell, BFloat16>, BackwardViews>;
template struct Compiled<VariedForward<PeepholeLstmCell, double>, ForwardViews>;
template struct Compiled<VariedBackward<PeepholeLstmCell, double>, BackwardViews>;
#if !defined(FUSED_RNN_SANITIZED)  // repetitions of the sweeps above
template struct Compiled<VariedForward<IdentityCell, float>, ForwardViews>;
template struct CompiledGradients<VariedBackward<IdentityCell, float>>;
template struct Compiled<VariedForward<BilinearCell, BFloat16>, ForwardViews>;
template struct CompiledGradients<VariedBackward<BilinearCell, BFloat16>>;
#endif
template struct Compiled<RowForward<WeightedCell, float>, ForwardViews>;
template struct Compiled<RowBackward<WeightedCell, float>, BackwardViews>;
template struct Compiled<RowForward<TwoStateCell, double>, ForwardViews>;
template struct Compiled<RowBackward<TwoStateCell, double>, BackwardViews>;
template struct Compiled<RowForward<IdentityCell, BFloat16>, ForwardViews>;
template struct Compiled<RowBackward<IdentityCell, BFloat16>, BackwardViews>;

}  // namespace fused_rnn::test
