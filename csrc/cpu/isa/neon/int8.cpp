// Layers and steps with int8 weights, for AArch64.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace neon {

template struct QuantizedKernels<Cells, QuantizedFloat>;
template struct StepKernels<Cells, QuantizedFloat>;
template struct QuantizedKernels<Cells, DotQuantizedFloat>;
template struct StepKernels<Cells, DotQuantizedFloat>;

}  // namespace neon
}  // namespace fused_rnn
