// What a function must say about the machines it runs on: the host/device marker. Functions so marked are always
// inlined where a compiler optimises, since a cell's packs of values must stay in registers.
#pragma once

#if defined(__CUDACC__)
#define FUSED_RNN_HD __host__ __device__ __attribute__((always_inline))
#elif defined(__OPTIMIZE__)
#define FUSED_RNN_HD [[gnu::always_inline]]
#else
#define FUSED_RNN_HD
#endif
