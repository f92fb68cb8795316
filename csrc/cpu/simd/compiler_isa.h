// Names the instruction set that a program is compiled for, from the compiler's own flags, as the units of cpu/isa do:
// for cells that are compiled by themselves, and for tests and tools.
#pragma once

#if defined(__AVX512F__)
#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_VECTOR_REGISTERS 32
#elif defined(__AVX2__)
#define FUSED_RNN_ISA avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define FUSED_RNN_ISA neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 32
#else
#define FUSED_RNN_ISA baseline
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 16
#endif
