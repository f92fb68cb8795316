// Layers and steps with int8 weights, with AVX-512.
#include "cpu/isa/avx512.h"
// (first: what follows needs its names)
#include "cpu/instantiate.h"

namespace fused_rnn {
inline namespace avx512 {

template struct QuantizedKernels<Cells, QuantizedFloat>;
template struct StepKernels<Cells, QuantizedFloat>;
template struct QuantizedKernels<Cells, DotQuantizedFloat>;
template struct StepKernels<Cells, DotQuantizedFloat>;

}  // namespace avx512
}  // namespace fused_rnn
