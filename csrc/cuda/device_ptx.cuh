// The device vocabulary for nvcc: the only file with intrinsics and PTX. Included by device.h, which explains the
// names.
#pragma once

#define FUSED_RNN_DEVICE __device__ __forceinline__

namespace fused_rnn::cuda {

using SharedAddress = uint32_t;

FUSED_RNN_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FUSED_RNN_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
FUSED_RNN_DEVICE int lane_index() { return thread_index() % kWarpLanes; }
FUSED_RNN_DEVICE int warp_index() { return thread_index() / kWarpLanes; }
FUSED_RNN_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
FUSED_RNN_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
FUSED_RNN_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }

FUSED_RNN_DEVICE void sync_block() { __syncthreads(); }
FUSED_RNN_DEVICE void sync_warp() { __syncwarp(); }

FUSED_RNN_DEVICE uint32_t shuffle(uint32_t value, int lane) { return __shfl_sync(~0u, value, lane); }
FUSED_RNN_DEVICE uint32_t shuffle_xor(uint32_t value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
FUSED_RNN_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(~0u, vote); }

FUSED_RNN_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char fused_rnn_dynamic_shared[];
  return fused_rnn_dynamic_shared;
}

template <class T>
FUSED_RNN_DEVICE T& static_shared() {
  __shared__ T object;
  return object;
}

// What other threads of the block wrote before a __syncthreads is released with it.
FUSED_RNN_DEVICE void arrive_blocks(BlockBarrier* barrier) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&barrier->arrived) : "memory");
}
// The count only grows; it may wrap.
FUSED_RNN_DEVICE void wait_blocks(const BlockBarrier* barrier, uint32_t count) {
  uint32_t seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(&barrier->arrived) : "memory");
  } while (static_cast<int32_t>(seen - count) < 0);
}

FUSED_RNN_DEVICE SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

// Clusters need sm_90. Below, the functions exist so that the same source compiles, and launch.h leaves the kernel
// empty.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

FUSED_RNN_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
FUSED_RNN_DEVICE int cluster_size() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}
FUSED_RNN_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
FUSED_RNN_DEVICE SharedAddress peer_address(SharedAddress own, int rank) {
  SharedAddress peer;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(own), "r"(rank));
  return peer;
}
FUSED_RNN_DEVICE void init_barrier(TransactionBarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the stores of peers, together with the sync_cluster that follows.
FUSED_RNN_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
FUSED_RNN_DEVICE void arrive_expecting(TransactionBarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Returns when the phase of this parity is complete; what was stored under it is then visible. (Of the block's scope:
// all that comes lies in the block's own shared memory. Acquiring for the cluster would also empty the L1 cache.)
FUSED_RNN_DEVICE void wait_parity(TransactionBarrier* barrier, int parity) {
  const SharedAddress address = shared_address(barrier);
  uint32_t complete;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(complete)
        : "r"(address), "r"(parity)
        : "memory");
  } while (complete == 0);
}
FUSED_RNN_DEVICE void store_async(SharedAddress to, const Words4& value, SharedAddress barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "r"(value.words[0]), "r"(value.words[1]), "r"(value.words[2]), "r"(value.words[3]), "r"(barrier)
      : "memory");
}
FUSED_RNN_DEVICE void store_async(SharedAddress to, const Words2& value, SharedAddress barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(to),
               "r"(value.words[0]), "r"(value.words[1]), "r"(barrier)
               : "memory");
}

#else

FUSED_RNN_DEVICE int cluster_rank() { return 0; }
FUSED_RNN_DEVICE int cluster_size() { return 1; }
FUSED_RNN_DEVICE void sync_cluster() { __trap(); }
FUSED_RNN_DEVICE SharedAddress peer_address(SharedAddress own, int) { return own; }
FUSED_RNN_DEVICE void init_barrier(TransactionBarrier*, int) { __trap(); }
FUSED_RNN_DEVICE void publish_barriers() { __trap(); }
FUSED_RNN_DEVICE void arrive_expecting(TransactionBarrier*, int) { __trap(); }
FUSED_RNN_DEVICE void wait_parity(TransactionBarrier*, int) { __trap(); }
FUSED_RNN_DEVICE void store_async(SharedAddress, const Words4&, SharedAddress) { __trap(); }
FUSED_RNN_DEVICE void store_async(SharedAddress, const Words2&, SharedAddress) { __trap(); }

#endif

// d[16 x 8] += a[16 x 16] b[16 x 8]. With group = lane / 4 and pair = 2 * (lane % 4), a lane holds
//   a[0] row group, columns pair and pair + 1; a[1] row group + 8; a[2], a[3] the same rows, columns 8 further
//   b[0] rows pair and pair + 1 of column group; b[1] 8 rows further
//   d[0], d[1] row group, columns pair and pair + 1; d[2], d[3] row group + 8
FUSED_RNN_DEVICE void mma(BFloat16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FUSED_RNN_DEVICE void mma(Float16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d[16 x 8] += a[16 x 8] b[8 x 8]: a[0] row group, column lane % 4; a[1] row group + 8; a[2], a[3] the same rows, four
// columns further; b[0] row lane % 4 of column group, b[1] four rows further; d as above.
FUSED_RNN_DEVICE void mma(TFloat32, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

FUSED_RNN_DEVICE Words4 load_words(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {{v.x, v.y, v.z, v.w}};
}
FUSED_RNN_DEVICE void store_words(void* to, const Words4& value) {
  *static_cast<uint4*>(to) = make_uint4(value.words[0], value.words[1], value.words[2], value.words[3]);
}

// As one instruction, also where nvcc would make four of it, for values of another type.
FUSED_RNN_DEVICE void store_shared(void* to, const Words4& value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(value.words[0]),
               "r"(value.words[1]), "r"(value.words[2]), "r"(value.words[3])
               : "memory");
}

// By way of L2 alone, where what other blocks wrote is.
FUSED_RNN_DEVICE void copy_async(void* to_shared, const void* from_global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)), "l"(from_global)
               : "memory");
}
FUSED_RNN_DEVICE void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

FUSED_RNN_DEVICE int hidden_from_compiler(int x) {
  asm volatile("" : "+r"(x)::"memory");
  return x;
}
// Of a plain product a compiler may not see that the upper halves are zero.
FUSED_RNN_DEVICE uint64_t wide_product(uint32_t a, uint32_t b) {
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}
FUSED_RNN_DEVICE void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

FUSED_RNN_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
FUSED_RNN_DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }
FUSED_RNN_DEVICE float round_tfloat32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}
FUSED_RNN_DEVICE float to_float(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
FUSED_RNN_DEVICE float to_float(Float16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}
FUSED_RNN_DEVICE BFloat16 round_float(BFloat16, float x) {
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}
FUSED_RNN_DEVICE Float16 round_float(Float16, float x) {
  Float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}

// Also for the host, which never calls them: the cells' functions are compiled for both sides.
FUSED_RNN_HD inline float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}
FUSED_RNN_HD inline float coarse_tanh(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return tanhf(x);
#endif
}
FUSED_RNN_HD inline float fast_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}
FUSED_RNN_DEVICE float fast_reciprocal_sqrt(float x) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace fused_rnn::cuda
