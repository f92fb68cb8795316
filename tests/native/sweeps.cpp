// The sweeps that the tests run, the backward ones with gradients of weights, too.
#include "schedules.h"
// (first: what follows needs its names)
#include "cpu/schedules/sweep_forward.h"
#include "cpu/schedules/sweep_with_gradients.h"

#include "linear_cells.h"

namespace fused_rnn::test {

template struct Compiled<PlainForward<BilinearCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<BilinearCell, float>, BackwardViews>;
template struct CompiledGradients<PlainBackward<BilinearCell, float>>;
template struct Compiled<PlainForward<TwoStateCell, double>, ForwardViews>;
template struct Compiled<PlainBackward<TwoStateCell, double>, BackwardViews>;
template struct CompiledGradients<PlainBackward<TwoStateCell, double>>;
template struct Compiled<PlainForward<PartlyRecurrentCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<PartlyRecurrentCell, float>, BackwardViews>;
template struct CompiledGradients<PlainBackward<PartlyRecurrentCell, float>>;
template struct Compiled<PlainForward<PartlyProjectedCell, double>, ForwardViews>;
template struct Compiled<PlainBackward<PartlyProjectedCell, double>, BackwardViews>;
template struct CompiledGradients<PlainBackward<PartlyProjectedCell, double>>;
template struct Compiled<PlainForward<IdentityCell, BFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<IdentityCell, BFloat16>, BackwardViews>;
template struct CompiledGradients<PlainBackward<IdentityCell, BFloat16>>;
#if !defined(FUSED_RNN_SANITIZED)  // see IdentityType
template struct Compiled<PlainForward<IdentityCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<IdentityCell, float>, BackwardViews>;
template struct CompiledGradients<PlainBackward<IdentityCell, float>>;
template struct Compiled<PlainForward<BilinearCell, BFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<BilinearCell, BFloat16>, BackwardViews>;
template struct CompiledGradients<PlainBackward<BilinearCell, BFloat16>>;
#endif

}  // namespace fused_rnn::test
