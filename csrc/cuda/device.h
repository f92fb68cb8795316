// The vocabulary that kernels are written in: indices, barriers, exchange between threads, matrix tiles.
//
// It has two implementations with the same names: device_ptx.cuh for nvcc, which alone holds intrinsics and PTX, and an
// emulator for a C++ compiler (tests/cuda_on_cpu), which runs the very same kernels where there is no GPU. A kernel is
// a callable object: plain members are its arguments, `kThreads` bounds its block, `launch` (launch.h) runs it.
//
//   thread_index, thread_count, lane_index, warp_index, block_x/y/z     blocks are one-dimensional, warps have 32 lanes
//   sync_block, sync_warp                        every thread of the block, of the warp, must come
//   shuffle, shuffle_xor, ballot                 of 32 bits; whole warps only
//   dynamic_shared, static_shared<T>             shared memory of the block: launch's bytes, one object of a type
//   cluster_rank, cluster_size, sync_cluster     blocks that can reach each other's shared memory (sm_90 and newer)
//   shared_address, peer_address, store_async    the address of one's own shared memory, the same place in a peer
//   block,
//                                                and a store there whose arrival a TransactionBarrier counts
//   TransactionBarrier: init_barrier, publish_barriers, arrive_expecting, wait_parity
//   arrive_blocks, wait_blocks                   one thread of a block: counts it, releasing what its block wrote
//   before a
//                                                sync_block, or itself; waits for a count, acquiring what the others
//                                                released.
//                                                Needs a cooperative launch, since all blocks must be resident
//   mma                                          16 x 8 += (16 x K) (K x 8) by one warp, K = 16 or (TFloat32) 8, with
//                                                float32 accumulation
//   load_words, store_words, store_shared        16 bytes at once, aligned to 16; the last in shared memory
//   copy_async, wait_copies                      16 bytes from global to shared memory past the registers; the thread's
//                                                copies are there after its wait
//   hidden_from_compiler                         the same number, of which the compiler knows nothing: what depends on
//   it
//                                                is computed again and not kept in a register
//   wide_product                                 of 32 bits each, in one instruction
//   prefetch                                     brings the line of an address closer; the address may be wrong
//   bits_to_float, float_to_bits                 the same 32 bits
//   to_float, round_float, round_tfloat32        conversions, rounding to nearest (even; TFloat32: away from zero)
//   fast_exp2, fast_reciprocal(_sqrt)            a few float32 roundings of error
//   coarse_tanh                                  a relative error of 2^-11 at most
#pragma once

#include <cstdint>

#include "core/platform.h"
#include "cuda/persistent_shape.h"

namespace fused_rnn::cuda {

constexpr int kWarpLanes = 32;

struct alignas(16) Words4 {
  uint32_t words[4];
};
struct alignas(8) Words2 {
  uint32_t words[2];
};

// Counts arrivals and bytes that arrive by store_async; lies in shared memory. A phase is complete when both counts are
// reached; then the next phase, of the other parity, begins. The first phase has parity 0.
struct alignas(8) TransactionBarrier {
  uint64_t state;
};

// Storage types of 16 bits: all arithmetic is float32.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
// float32 in memory, of which GEMMs keep 11 bits of significand.
struct TFloat32 {
  float value;
};

}  // namespace fused_rnn::cuda

#if defined(__CUDACC__)
#include "cuda/device_ptx.cuh"
#else
#include FUSED_RNN_EMULATED_DEVICE  // the build names the emulator's header, which this folder does not know
#endif
