// The bits are those of xoshiro128++ (Blackman and Vigna 2021), of eight generators side by side whose states come from
// the seed by SplitMix64 (Steele et al. 2014). A decision takes 16 of them.
#include "cpu/zoneout_mask.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace fused_rnn {

namespace {

using Words [[gnu::vector_size(16)]] = uint32_t;

constexpr int kVectors = 2;  // that hide each other's latency
constexpr int kDecisions = kVectors * sizeof(Words) / sizeof(int16_t);

class Generators {
 public:
  explicit Generators(uint64_t seed) {
    const auto split_mix = [&] {
      seed += 0x9e3779b97f4a7c15;
      uint64_t z = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
      z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
      return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
    };
    for (auto& vectors : state_) {
      for (Words& words : vectors) words = Words{split_mix(), split_mix(), split_mix(), split_mix()};
    }
  }

  void draw(int16_t (&bits)[kDecisions]) {
    for (int i = 0; i < kVectors; ++i) {
      Words &a = state_[0][i], &b = state_[1][i], &c = state_[2][i], &d = state_[3][i];
      const Words drawn = rotated(a + d, 7) + a;
      std::memcpy(bits + i * (kDecisions / kVectors), &drawn, sizeof drawn);
      const Words shifted = b << 9;
      c ^= a;
      d ^= b;
      b ^= c;
      a ^= d;
      c ^= shifted;
      d = rotated(d, 11);
    }
  }

 private:
  static Words rotated(Words words, int by) { return (words << by) | (words >> (32 - by)); }

  Words state_[4][kVectors];
};

// Of 2^16 equally likely numbers of 16 bits the largest that means one. Not for a probability of 0.
int16_t limit_of(double probability) {
  const int ones = std::max(1, static_cast<int>(std::lround(probability * (1 << 16))));
  return static_cast<int16_t>(ones - (1 << 15) - 1);
}

// Elements of a type whose bits are `one`, or zero.
template <class Bits>
struct Decisions {
  static constexpr int kElements = sizeof(Words) / sizeof(Bits);
  using Elements [[gnu::vector_size(sizeof(Words))]] = std::make_signed_t<Bits>;
  using Drawn [[gnu::vector_size(kElements * sizeof(int16_t))]] = int16_t;

  int16_t limit;
  Bits one;

  // All of what generators have drawn.
  void operator()(const int16_t (&bits)[kDecisions], Bits* to) const {
#pragma GCC unroll 8
    for (int i = 0; i < kDecisions; i += kElements) {
      Drawn drawn;
      std::memcpy(&drawn, bits + i, sizeof drawn);
      const Elements elements =
          __builtin_convertvector(drawn <= limit, Elements) & static_cast<std::make_signed_t<Bits>>(one);
      std::memcpy(to + i, &elements, sizeof elements);
    }
  }
};

template <class Bits>
Bits* draw_run(Generators& generators, double probability, Bits one, int64_t count, Bits* to) {
  if (probability <= 0.0) return std::fill_n(to, count, Bits(0));
  const Decisions<Bits> decide{limit_of(probability), one};
  Generators own = generators;  // which no store to `to` can change
  int16_t bits[kDecisions];
  for (; count >= kDecisions; count -= kDecisions, to += kDecisions) {
    own.draw(bits);
    decide(bits, to);
  }
  if (count > 0) {
    Bits some[kDecisions];
    own.draw(bits);
    decide(bits, some);
    to = std::copy_n(some, count, to);
  }
  generators = own;
  return to;
}

template <class Bits>
void draw(const ZoneoutMask& mask, uint64_t seed, Bits one, void* data) {
  Generators generators(seed);
  const auto to = static_cast<Bits*>(data);
  if (mask.of_h == mask.of_others || mask.states == 1)
    return void(draw_run(generators, mask.of_h, one, mask.rows * mask.states * mask.units, to));
  Bits* next = to;
  for (int64_t i = 0; i < mask.rows * mask.states; ++i)
    next = draw_run(generators, i % mask.states == 0 ? mask.of_h : mask.of_others, one, mask.units, next);
}

}  // namespace

void draw_zoneout_mask(const ZoneoutMask& mask, uint64_t seed, void* to) {
  switch (mask.type) {
    case DataType::kFloat32:
      return draw(mask, seed, std::bit_cast<uint32_t>(1.0F), to);
    case DataType::kFloat64:
      return draw(mask, seed, std::bit_cast<uint64_t>(1.0), to);
    case DataType::kBFloat16:
      return draw(mask, seed, uint16_t(0x3f80), to);
    case DataType::kFloat16:
      return draw(mask, seed, uint16_t(0x3c00), to);
  }
}

}  // namespace fused_rnn
