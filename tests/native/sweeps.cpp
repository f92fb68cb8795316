// The sweeps that the tests run.
#include "schedules.h"
// (first: what follows needs its names)
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"

#include "linear_cells.h"

namespace fused_rnn::test {

template struct Compiled<PlainForward<BilinearCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<BilinearCell, float>, BackwardViews>;
template struct Compiled<PlainForward<TwoStateCell, double>, ForwardViews>;
template struct Compiled<PlainBackward<TwoStateCell, double>, BackwardViews>;
template struct Compiled<PlainForward<PartlyRecurrentCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<PartlyRecurrentCell, float>, BackwardViews>;
template struct Compiled<PlainForward<PartlyProjectedCell, double>, ForwardViews>;
template struct Compiled<PlainBackward<PartlyProjectedCell, double>, BackwardViews>;
template struct Compiled<PlainForward<IdentityCell, BFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<IdentityCell, BFloat16>, BackwardViews>;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // see IdentityType
template struct Compiled<PlainForward<IdentityCell, float>, ForwardViews>;
template struct Compiled<PlainBackward<IdentityCell, float>, BackwardViews>;
#endif

}  // namespace fused_rnn::test
