// Layers and steps with int8 weights, with 16-byte vectors.
#include "cpu/isa/baseline.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace baseline {

template struct QuantizedKernels<Cells, QuantizedFloat>;
template struct StepKernels<Cells, QuantizedFloat>;

}  // namespace baseline
}  // namespace fused_rnn
