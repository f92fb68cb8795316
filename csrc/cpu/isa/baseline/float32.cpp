// Layers and steps in float32, with 16-byte vectors.
#include "cpu/isa/baseline.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace baseline {

template struct LayerKernels<Cells, float>;
template struct StepKernels<Cells, float>;

}  // namespace baseline
}  // namespace fused_rnn
