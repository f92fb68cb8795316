// Layers in bfloat16 and float16, and steps whose weights are kept as bfloat16, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct LayerKernels<Cells, BFloat16>;
template struct LayerKernels<Cells, Float16>;
template struct StepKernels<Cells, HalfKeptFloat>;

}  // namespace neon
}  // namespace fused_rnn
