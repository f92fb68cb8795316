// Whether a block of weights still has the bits that it was packed from. A tensor's version would not say: a write
// through `.data`, or by another process into shared memory, leaves it as it was.
//
//   s' = (rotate(s) xor next 8 bytes) K mod 2^64,  K odd        in each lane of several vectors
//
// A step is one to one both in s and in the 8 bytes. So a change of any 8 bytes shows for certain, and one of several
// that share a lane is missed with a probability of 2^-64.
#pragma once

#include <cstring>

#include "cpu/pack_weights.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct alignas(64) Fingerprint {
  static constexpr int kVectors = 4;  // independent chains, which hide the latency of a multiplication
  static constexpr int64_t kBytes = int64_t{kVectors} * kVectorBytes;

  UInt64Lanes state[kVectors];

  bool operator==(const Fingerprint& other) const {
    UInt64Lanes differences{};
    for (int i = 0; i < kVectors; ++i) differences |= state[i] ^ other.state[i];
    uint64_t any = 0;
    for (size_t lane = 0; lane < sizeof(UInt64Lanes) / sizeof(uint64_t); ++lane) any |= differences[lane];
    return any == 0;
  }

  void add(const char* bytes) {  // kBytes of them
    constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      UInt64Lanes next;
      std::memcpy(&next, bytes + i * kVectorBytes, sizeof(next));
      state[i] = (((state[i] << 23) | (state[i] >> 41)) ^ next) * kFactor;
    }
  }
};

// Of what pack_block reads of a source with a single reduction group. Rows are filled up with zeros, and never all
// zeros: a new workspace has seen nothing.
template <int Groups, int Vectors, class T>
Fingerprint fingerprint_of(const PackSource<T>& source, int64_t block) {
  constexpr int64_t kUnits = int64_t{Vectors} * Vec<RealOf<T>>::kLanes;
  Fingerprint result{};
  for (UInt64Lanes& lanes : result.state) lanes = UInt64Lanes{} + 1;
  const int64_t first = block * kUnits, end = first + kUnits < source.units ? first + kUnits : source.units;
  const int64_t bytes = source.reduction_size * static_cast<int64_t>(sizeof(T));
  for (int group = 0; group < Groups; ++group) {
    for (int64_t unit = first; unit < end; ++unit) {
      const char* row =
          reinterpret_cast<const char*>(source.data + group * source.group_stride + unit * source.unit_stride);
      int64_t at = 0;
      for (; at + Fingerprint::kBytes <= bytes; at += Fingerprint::kBytes) result.add(row + at);
      if (at == bytes) continue;
      char rest[Fingerprint::kBytes] = {};
      std::memcpy(rest, row + at, static_cast<size_t>(bytes - at));
      result.add(rest);
    }
  }
  return result;
}

// pack_block, left out where `seen` says that `to` has this block already; `seen` may be null.
template <int Groups, int Vectors, class T, class W>
void pack_changed_block(const PackSource<T>& source, int64_t block, W* to, Fingerprint* seen) {
  if (seen != nullptr) {
    const bool rows = source.reduction_stride == 1;  // else it is packed each time, and nothing counts as seen
    const Fingerprint now = rows ? fingerprint_of<Groups, Vectors>(source, block) : Fingerprint{};
    if (rows && now == *seen) return;
    *seen = now;
  }
  pack_block<Groups, Vectors>(source, block, to);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
