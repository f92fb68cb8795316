// Layers and steps in float32 that multiply pairs of bfloat16, with AVX-512.
#include "cpu/isa/avx512.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx512 {

template struct LayerKernels<Cells, PairedFloat>;
template struct StepKernels<Cells, PairedFloat>;

}  // namespace avx512
}  // namespace fused_rnn
