// Layers and steps in float32, with AVX2.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx2 {

template struct LayerKernels<Cells, float>;
template struct StepKernels<Cells, float>;

}  // namespace avx2
}  // namespace fused_rnn
