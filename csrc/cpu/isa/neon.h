// Kernels for any AArch64 processor.
#pragma once

#define FUSED_RNN_ISA neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 32
