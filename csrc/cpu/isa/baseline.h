// Kernels for any x86-64 processor, and any other without a unit of its own: 16-byte vectors.
#pragma once

#define FUSED_RNN_ISA baseline
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 16
