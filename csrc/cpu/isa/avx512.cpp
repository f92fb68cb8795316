// The CPU kernels for processors with AVX-512 (F, BW, DQ, VL), and for those of them with BF16 too.
#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_VECTOR_REGISTERS 32
#include "cpu/unit.h"

namespace fused_rnn::avx512 {

const CpuUnit& unit_with_bf16();
const CpuUnit& unit_with_bf16() { return unit_for<PairedDataTypes>(); }

}  // namespace fused_rnn::avx512
