// What a function must say about the machines it runs on: the host/device marker, empty where there is no CUDA.
#pragma once

#if defined(__CUDACC__)
#define FUSED_RNN_HD __host__ __device__
#else
#define FUSED_RNN_HD
#endif
