// Layers and steps in float32 that multiply pairs of bfloat16, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct LayerKernels<Cells, PairedFloat>;
template struct StepKernels<Cells, PairedFloat>;

}  // namespace neon
}  // namespace fused_rnn
