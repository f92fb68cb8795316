// The CPU kernels for processors with AVX2 and FMA.
#define FUSED_RNN_ISA avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_VECTOR_REGISTERS 16
#include "cpu/unit.h"
