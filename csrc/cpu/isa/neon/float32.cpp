// Layers and steps in float32, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct LayerKernels<Cells, float>;
template struct StepKernels<Cells, float>;

}  // namespace neon
}  // namespace fused_rnn
