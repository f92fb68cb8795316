// Layers in bfloat16 that multiply pairs, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct LayerKernels<Cells, PairedBFloat16>;

}  // namespace neon
}  // namespace fused_rnn
