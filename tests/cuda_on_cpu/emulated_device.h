// The device vocabulary of csrc/cuda/device.h on the emulator.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

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
inline void arrive_blocks(BlockBarrier* barrier, Where where = Where::current()) {
  emulator::arrive_blocks(&barrier->arrived, where);
}
inline void wait_blocks(const BlockBarrier* barrier, uint32_t count, Where where = Where::current()) {
  emulator::wait_blocks(&barrier->arrived, count, where);
}

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
inline void store_async(SharedAddress to, const Words2& value, SharedAddress barrier, Where where = Where::current()) {
  emulator::store_async(to.pointer, &value, sizeof value, barrier.pointer, where);
}

inline Words4 load_words(const void* from) {
  emulator::maybe_preempt();
  return *static_cast<const Words4*>(from);  // an aligned access: UndefinedBehaviorSanitizer finds the others
}
inline void store_words(void* to, const Words4& value) { *static_cast<Words4*>(to) = value; }
inline void store_shared(void* to, const Words4& value) { store_words(to, value); }

inline void copy_async(void* to_shared, const void* from_global) { emulator::copy_async(to_shared, from_global, 16); }
inline void wait_copies(Where where = Where::current()) { emulator::wait_copies(where); }

inline int hidden_from_compiler(int x) { return x; }
inline uint64_t wide_product(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
inline void prefetch(const void* /*address*/) {}

inline float bits_to_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t float_to_bits(float x) { return std::bit_cast<uint32_t>(x); }
inline float round_tfloat32(float x) {
  return std::isfinite(x) ? bits_to_float((float_to_bits(x) + 0x1000u) & ~0x1FFFu) : x;
}
inline float to_float(BFloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
inline BFloat16 round_float(BFloat16, float x) {
  const uint32_t bits = float_to_bits(x);
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
inline float fast_reciprocal_sqrt(float x) { return 1.0f / std::sqrt(x); }
// As far off as the PTX manual allows, to the side that a hash of x says.
inline float coarse_tanh(float x) {
  const uint32_t hash = float_to_bits(x) * 0x9E3779B1u;
  return std::tanh(x) * ((hash >> 31) != 0 ? 1.0f + 0x1p-11f : 1.0f - 0x1p-11f);
}

// The fragments as the PTX manual lays them out, as the numbers that the unit takes from them.
template <class T>
void mma(T /*type*/, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = Where::current()) {
  constexpr int kPerWord = std::is_same_v<T, TFloat32> ? 1 : 2;
  const auto numbers_of = [](uint32_t word, float* to) {
    if constexpr (kPerWord == 1) {
      to[0] = bits_to_float(word & ~0x1FFFu);  // the unit ignores the bits below
    } else {
      to[0] = to_float(T{static_cast<uint16_t>(word)});
      to[1] = to_float(T{static_cast<uint16_t>(word >> 16)});
    }
  };
  emulator::Fragments own{};
  for (int i = 0; i < 4; ++i) numbers_of(a[i], own.a[i]);
  for (int i = 0; i < 2; ++i) numbers_of(b[i], own.b[i]);
  emulator::add_tile_product(own, kPerWord, d, where);
}

}  // namespace fused_rnn::cuda
