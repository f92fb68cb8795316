// Layers in bfloat16 and float16, and steps whose weights are kept as bfloat16, with AVX2.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx2 {

template struct LayerKernels<Cells, BFloat16>;
template struct LayerKernels<Cells, Float16>;
template struct StepKernels<Cells, HalfKeptFloat>;

}  // namespace avx2
}  // namespace fused_rnn
