// The instruction set of compile-time sizes: the widest that the compiler's options allow.
//
// Its names are not those of the units under isa/, whose symbols are in the same program where it links to the library.
#pragma once

#if defined(FUSED_RNN_ISA)
#error "fused_rnn_static.hpp chooses its instruction set by itself"
#elif defined(__AVX512F__)
#define FUSED_RNN_ISA static_avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_VECTOR_REGISTERS 32
#elif defined(__AVX2__) && defined(__FMA__)
#define FUSED_RNN_ISA static_avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define FUSED_RNN_ISA static_neon
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 32
#else
#define FUSED_RNN_ISA static_baseline
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 16
#endif
