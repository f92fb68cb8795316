// Kernels for processors with AVX-512 (F, BW, DQ, VL).
#pragma once

#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_VECTOR_REGISTERS 32
