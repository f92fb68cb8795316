// Layers and steps in float64, with AVX2.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx2 {

template struct LayerKernels<Cells, double>;
template struct StepKernels<Cells, double>;

}  // namespace avx2
}  // namespace fused_rnn
