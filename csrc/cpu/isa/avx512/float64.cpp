// Layers and steps in float64, with AVX-512.
#include "cpu/isa/avx512.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx512 {

template struct LayerKernels<Cells, double>;
template struct StepKernels<Cells, double>;

}  // namespace avx512
}  // namespace fused_rnn
