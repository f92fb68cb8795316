// Layers in bfloat16 and float16, and steps whose weights are kept as bfloat16, with 16-byte vectors.
#include "cpu/isa/baseline.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace baseline {

template struct LayerKernels<Cells, BFloat16>;
template struct LayerKernels<Cells, Float16>;
template struct StepKernels<Cells, HalfKeptFloat>;

}  // namespace baseline
}  // namespace fused_rnn
