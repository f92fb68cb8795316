// Layers and steps in float64, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct LayerKernels<Cells, double>;
template struct StepKernels<Cells, double>;

}  // namespace neon
}  // namespace fused_rnn
