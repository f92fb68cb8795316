// The sweeps whose GEMMs take bfloat16 in pairs that the tests run.
#include "schedules.h"
// (first: what follows needs its names)
#include "pairs.h"
// (before any schedule)
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"

#include "linear_cells.h"

namespace fused_rnn::test {

template struct Compiled<PlainForward<IdentityCell, PairedBFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<IdentityCell, PairedBFloat16>, BackwardViews>;
template struct Compiled<PlainForward<BilinearCell, PairedBFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<BilinearCell, PairedBFloat16>, BackwardViews>;
template struct Compiled<PlainForward<TwoStateCell, PairedBFloat16>, ForwardViews>;
template struct Compiled<PlainBackward<TwoStateCell, PairedBFloat16>, BackwardViews>;

}  // namespace fused_rnn::test
