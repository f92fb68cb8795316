// Layers and steps with int8 weights, with AVX2.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx2 {

template struct QuantizedKernels<Cells, QuantizedFloat>;
template struct StepKernels<Cells, QuantizedFloat>;
template struct QuantizedKernels<Cells, DotQuantizedFloat>;
template struct StepKernels<Cells, DotQuantizedFloat>;

}  // namespace avx2
}  // namespace fused_rnn
