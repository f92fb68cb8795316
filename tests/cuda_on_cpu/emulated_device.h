// The device vocabulary of csrc/cuda/device.h on the emulator.
#pragma once

#include <cmath>
#include <cstring>

#include "emulator.h"

#define FUSED_RNN_DEVICE inline

namespace fused_rnn::cuda {

using emulator::Where;

inline int thread_index() { return emulator::place().thread; }
inline int thread_count() { return emulator::place().threads; }
inline int lane_index() { return thread_index() % kWarpLanes; }
inline int warp_index() { return thread_index() / kWarpLanes; }
inline int block_x() { return emulator::place().block[0]; }
inline int block_y() { return emulator::place().block[1]; }
inline int block_z() { return emulator::place().block[2]; }

inline void sync_block(Where where = Where::current()) { emulator::sync_block(where); }
inline void sync_warp(Where where = Where::current()) { emulator::sync_warp(where); }
inline void sync_cluster(Where where = Where::current()) { emulator::sync_cluster(where); }
inline void sync_grid(GridBarrier* /*barrier*/, Where where = Where::current()) { emulator::sync_grid(where); }

inline uint32_t shuffle(uint32_t value, int lane, Where where = Where::current()) {
  uint32_t all[kWarpLanes];
  std::memcpy(all, emulator::exchange_in_warp(&value, sizeof value, where), sizeof all);
  return all[lane & (kWarpLanes - 1)];
}
inline uint32_t shuffle_xor(uint32_t value, int mask, Where where = Where::current()) {
  return shuffle(value, lane_index() ^ mask, where);
}
inline uint32_t ballot(bool vote, Where where = Where::current()) {
  const unsigned char* all = emulator::exchange_in_warp(&vote, sizeof vote, where);
  uint32_t votes = 0;
  for (int lane = 0; lane < kWarpLanes; ++lane) votes |= static_cast<uint32_t>(all[lane]) << lane;
  return votes;
}

inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }
template <class T>
T& static_shared() {
  static const char key = 0;  // one address for each T
  return *reinterpret_cast<T*>(emulator::static_shared(&key, sizeof(T), alignof(T)));
}

inline uint32_t atomic_add(uint32_t* counter, uint32_t value) {
  emulator::maybe_preempt();
  const uint32_t before = *counter;
  *counter += value;
  return before;
}

inline int cluster_rank() { return emulator::place().cluster_rank; }
inline int cluster_size() { return emulator::place().cluster_size; }

struct SharedAddress {
  unsigned char* pointer;
  friend SharedAddress operator+(SharedAddress address, int bytes) { return {address.pointer + bytes}; }
};
inline SharedAddress shared_address(void* pointer) { return {static_cast<unsigned char*>(pointer)}; }
inline SharedAddress peer_address(SharedAddress own, int rank) { return {emulator::in_peer(own.pointer, rank)}; }

inline void init_barrier(TransactionBarrier* barrier, int arrivals) { emulator::init_barrier(barrier, arrivals); }
inline void publish_barriers() {}
inline void arrive_expecting(TransactionBarrier* barrier, int bytes, Where where = Where::current()) {
  emulator::arrive_expecting(barrier, bytes, where);
}
inline void wait_parity(TransactionBarrier* barrier, int parity, Where where = Where::current()) {
  emulator::wait_parity(barrier, parity, where);
}
inline void store_async(SharedAddress to, const Words4& value, SharedAddress barrier, Where where = Where::current()) {
  emulator::store_async(to.pointer, &value, sizeof value, barrier.pointer, where);
}

inline Words4 load_words(const void* from) {
  emulator::maybe_preempt();
  return *static_cast<const Words4*>(from);  // an aligned access: UndefinedBehaviorSanitizer finds the others
}
inline void store_words(void* to, const Words4& value) { *static_cast<Words4*>(to) = value; }

inline float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline BFloat16 round_float(BFloat16, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (std::isnan(x)) return {0x7FFF};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}
inline float to_float(Float16 x) {
  _Float16 value;
  std::memcpy(&value, &x, sizeof value);
  return static_cast<float>(value);
}
inline Float16 round_float(Float16, float x) {
  const _Float16 value = static_cast<_Float16>(x);
  Float16 result;
  std::memcpy(&result, &value, sizeof value);
  return result;
}

inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }

// The fragments as the PTX manual lays them out; every lane computes its own four sums from all lanes' fragments.
template <class T>
void mma(T type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = Where::current()) {
  static_assert(sizeof(type) == 2);
  struct Fragments {
    uint32_t a[4], b[2];
  } own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all[kWarpLanes];
  std::memcpy(all, emulator::exchange_in_warp(&own, sizeof own, where), sizeof all);
  const auto element = [](uint32_t word, int half) {
    return to_float(T{static_cast<uint16_t>(half == 0 ? word : word >> 16)});
  };
  const int group = lane_index() / 4, pair = lane_index() % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * pair + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      // Column k of A is with the lanes of pair k % 8 / 2; row k of B likewise.
      const int holder = k % 8 / 2, half = k % 2, second = k / 8;
      sum += element(all[group * 4 + holder].a[2 * second + i / 2], half) *
             element(all[column * 4 + holder].b[second], half);
    }
    d[i] += sum;
  }
}

}  // namespace fused_rnn::cuda
