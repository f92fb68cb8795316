// The CPU kernels for any x86-64 or AArch64 processor: 16-byte vectors.
#define FUSED_RNN_ISA baseline
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 16
#include "cpu/unit.h"
