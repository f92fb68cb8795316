// Recurrent layers of one row whose sizes the compiler knows: StaticLstm<I, H, O> and StaticGru<I, H, O>.
//
//   from_x = b_ih + W_ih x,   from_h = b_hh + W_hh h,   h' as the cell has it
//   y = h', or b + W h' of a linear layer with O outputs;   y + x[0..O) with a residual
//
// The vectors of units are cut into tiles, whose sums fill the registers. Where a tile has few sums, the reduction is
// cut too: each chain has every n-th index, and the chains are added in the end. A short chain is what a small network
// needs, since each step waits for the one before. No step waits for the product of x; in a block it is made for
// several steps at once, which read the weights once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cpu/simd/static_isa.h"  // before the vectors, which it chooses
#include "cpu/simd/vec_math.h"
#include "stream/file_format.h"
#include "stream/flush_denormals.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The largest divisor of `count` that is at most `most`.
constexpr int divisor_up_to(int count, int most) {
  int divisor = most < count ? most : count;
  while (count % divisor != 0) --divisor;
  return divisor;
}

// Vectors of a tile: the largest divisor of their number whose sums leave a quarter of the registers free.
constexpr int static_tile(int gates, int vectors) { return divisor_up_to(vectors, kVectorRegisters * 3 / 4 / gates); }

// Chains of the reduction: enough of them to hide the latency of an FMA, as far as registers and indices reach.
constexpr int static_chains(int sums, int length) {
  int chains = 1;
  while (chains < 4 && 2 * chains * sums <= kVectorRegisters * 3 / 4 && 4 * chains <= length) chains *= 2;
  return chains;
}

// One row in motion, with its own copy of the weights. Copies go on from the same state. Nothing here allocates, takes
// a lock or makes a system call, and nothing throws. The caller's setting of denormal numbers holds: FlushDenormals in
// its scope makes them zero, as in streams.
template <class Cell, int I, int H, int O>
class alignas(kVectorBytes) StaticLayer {
  static_assert(I >= 1 && H >= 1 && O >= 0, "sizes are at least 1; O may be 0, for no linear layer");

 public:
  static constexpr int kInputSize = I, kOutputSize = O > 0 ? O : H;
  static constexpr int kStateSize = Cell::kStates * H;  // floats

  StaticLayer() = default;  // all weights are 0

  // Takes the weights in torch's layout and order of gates: w_ih [G*H, I], w_hh [G*H, H], b_ih and b_hh [G*H], which
  // may be null for zeros. The state becomes 0.
  void set_weights(const float* w_ih, const float* w_hh, const float* b_ih, const float* b_hh) noexcept {
    pack<I>(w_ih, w_ih_);
    pack<H>(w_hh, w_hh_);
    pack<1>(b_ih, b_ih_);
    pack<1>(b_hh, b_hh_);
    reset();
  }

  // Takes those of the linear layer: w [O, H] and b [O], which may be null.
  void set_linear(const float* w, const float* b) noexcept
    requires(O > 0)
  {
    for (int o = 0; o < O; ++o) {
      std::memcpy(&linear_[o * kPadded], w + o * H, H * sizeof(float));
      linear_bias_[o] = b != nullptr ? b[o] : 0.0f;
    }
  }

  // Whether the first values of x are added to y.
  void set_residual(bool residual) noexcept
    requires(kOutputSize <= I)
  {
    residual_ = residual;
  }

  // Takes a file that fused_rnn.save_stream wrote: one layer of this cell in float32, a Linear where O > 0, and maybe a
  // residual. The bytes begin at a multiple of 4. The result is null and the state 0, or it is what is wrong in words,
  // and then nothing was taken.
  [[nodiscard]] const char* load(const void* file, size_t size) noexcept {
    const auto* bytes = static_cast<const std::byte*>(file);
    FileHeader header;
    if (size < sizeof header) return "the file ends within its header";
    std::memcpy(&header, bytes, sizeof header);
    if (std::memcmp(header.magic, kFileMagic, sizeof kFileMagic) != 0) return "the file is no model";
    if (header.version < 1 || header.version > kFileVersion) return "the file has another version";
    if (header.bytes != size || header.checksum != file_checksum(bytes, size)) return "the file is damaged";
    if (header.stages != (O > 0 ? 2 : 1)) return "the model has other stages";
    if (header.residual != 0 && kOutputSize > I) return "the residual is wider than the input";
    size_t at = sizeof header + header.stages * sizeof(FileRecord);
    if (size < at) return "the file is damaged";
    FileRecord layer, linear{};
    std::memcpy(&layer, bytes + sizeof header, sizeof layer);
    const size_t layer_begin = at;
    if (!is(layer, recurrent_record(layer.has_bias, at))) return "the model has another layer";
    const size_t linear_begin = at;
    if constexpr (O > 0) {
      std::memcpy(&linear, bytes + sizeof header + sizeof layer, sizeof linear);
      if (!is(linear, linear_record(linear.has_bias, at))) return "the model has another linear layer";
    }
    if (at != size) return "the file is damaged";
    take(bytes + layer_begin, layer.has_bias != 0, bytes + linear_begin, linear.has_bias != 0);
    residual_ = header.residual != 0;
    return nullptr;
  }

  // Makes one step from x [I] to y [O], or [H] where O is 0. y may be x, and otherwise must not overlap it.
  void step(const float* x, float* y) noexcept {
    advance(x, y, [&](int tile) FUSED_RNN_INLINE_LAMBDA {
      const int gates = tile * kSums * kLanes;
      return product<I, 1>(b_ih_ + gates, w_ih_ + gates * I, x);
    });
  }

  // Makes `count` steps, from x [count, I] to y [count, O], with the values of as many calls of step.
  void steps(const float* x, float* y, int64_t count) noexcept {
    int64_t i = 0;
    if constexpr (I > 8) {
      for (; i + kAhead <= count; i += kAhead) {
        products_ahead(x + i * I);
        for (int row = 0; row < kAhead; ++row) {
          advance(x + (i + row) * I, y + (i + row) * kOutputSize, [&](int tile) FUSED_RNN_INLINE_LAMBDA {
            return load_sums(ahead_ + row * kWeights + tile * kSums * kLanes);
          });
        }
      }
    }
    for (; i < count; ++i) step(x + i * I, y + i * kOutputSize);
  }

  // Makes the state 0.
  void reset() noexcept {
    std::memset(h_, 0, sizeof h_);
    std::memset(c_, 0, sizeof c_);
  }

  // The state: h [H] and then, of an LSTM, c [H].
  void get_state(float* state) const noexcept {
    std::memcpy(state, h_[now_], H * sizeof(float));
    if constexpr (kHasC) std::memcpy(state + H, c_, H * sizeof(float));
  }
  void set_state(const float* state) noexcept {
    std::memcpy(h_[now_], state, H * sizeof(float));
    if constexpr (kHasC) std::memcpy(c_, state + H, H * sizeof(float));
  }

 private:
  using V = Vec<float>;
  static constexpr int kGates = Cell::kGates, kLanes = V::kLanes;
  static constexpr int kVectors = (H + kLanes - 1) / kLanes, kPadded = kVectors * kLanes;
  static constexpr int kTile = static_tile(kGates, kVectors), kTiles = kVectors / kTile;
  static constexpr int kSums = kGates * kTile;       // of a tile
  static constexpr int kWeights = kGates * kPadded;  // of one reduction index
  static constexpr int kAhead = 4;                   // steps of a block whose from_x are made at once
  static constexpr bool kInPlace = kTiles == 1, kHasC = Cell::kStates == 2;
  static_assert(Cell::kStates <= 2 && Cell::kUnitWeights == 0 && recurrent_gates<Cell>() == kGates);
  using Units = Vec<float, kTile>;
  using Sums = Pack<Units, kGates>;

  // --- Weights: [tile][reduction][gate][vector of the tile][lane] ---

  template <int Length>
  static void pack(const float* from, float* to) noexcept {
    for (int index = 0; index < kTiles * Length * kSums * kLanes; ++index) {
      const int unit = index / (Length * kSums * kLanes) * kTile * kLanes + index % (kTile * kLanes);
      const int k = index / (kSums * kLanes) % Length, gate = index / (kTile * kLanes) % kGates;
      to[index] = from != nullptr && unit < H ? from[(gate * H + unit) * Length + k] : 0.0f;
    }
  }

  // The bytes of an array in a file.
  static constexpr size_t file_bytes(size_t count) {
    return (count * sizeof(float) + kFileAlignment - 1) / kFileAlignment * kFileAlignment;
  }
  static constexpr size_t kInputBytes = file_bytes(size_t{kGates} * H * I),
                          kHiddenBytes = file_bytes(size_t{kGates} * H * H),
                          kBiasBytes = file_bytes(size_t{kGates} * H), kLinearBytes = file_bytes(size_t{O} * H);

  // What the record must be, byte for byte. `at` moves behind its parameters.
  static FileRecord recurrent_record(uint32_t has_bias, size_t& at) noexcept {
    FileRecord record{};
    record.kind = 1;
    do ++record.type;
    while (std::string_view(kFileCells[record.type - 1]) != Cell::kName);
    record.input_size = I;
    record.hidden_size = record.output_size = H;
    return placed(record, has_bias, kInputBytes + kHiddenBytes + (has_bias != 0 ? 2 * kBiasBytes : 0), at);
  }
  static FileRecord linear_record(uint32_t has_bias, size_t& at) noexcept {
    FileRecord record{};
    record.kind = 2;
    record.input_size = H;
    record.output_size = O;
    return placed(record, has_bias, kLinearBytes + (has_bias != 0 ? file_bytes(O) : 0), at);
  }
  static FileRecord placed(FileRecord record, uint32_t has_bias, size_t bytes, size_t& at) noexcept {
    record.has_bias = has_bias != 0 ? 1 : 0;
    record.offset = at;
    record.bytes = bytes;
    at += bytes;
    return record;
  }
  static bool is(const FileRecord& a, const FileRecord& b) noexcept { return std::memcmp(&a, &b, sizeof a) == 0; }

  void take(const std::byte* layer, bool layer_bias, const std::byte* linear, bool linear_bias) noexcept {
    const auto floats = [](const std::byte* bytes) { return reinterpret_cast<const float*>(bytes); };
    const std::byte *w_hh = layer + kInputBytes, *b_ih = w_hh + kHiddenBytes;
    set_weights(floats(layer), floats(w_hh), layer_bias ? floats(b_ih) : nullptr,
                layer_bias ? floats(b_ih + kBiasBytes) : nullptr);
    if constexpr (O > 0) set_linear(floats(linear), linear_bias ? floats(linear + kLinearBytes) : nullptr);
  }

  // --- A step ---

  // bias + weights values, of the units of a tile.
  template <int Length, int kChains>
  FUSED_RNN_INLINE static Sums product(const float* bias, const float* weights, const float* values) noexcept {
    Sums sums[kChains];
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 32
      for (int s = 0; s < kSums; ++s) {
        sums[chain][s / kTile].parts[s % kTile] = (chain == 0 ? V::load(bias + s * kLanes) : V(0)).parts[0];
      }
    }
    const auto add = [&](int k, Sums& to) FUSED_RNN_INLINE_LAMBDA {
      const V value(values[k]);
      const float* const row = weights + k * kSums * kLanes;
#pragma GCC unroll 32
      for (int s = 0; s < kSums; ++s) {
        auto& sum = to[s / kTile].parts[s % kTile];
        sum = multiply_add(V::load(row + s * kLanes), value, V(sum)).parts[0];
      }
    };
    for (int k = 0; k + kChains <= Length; k += kChains) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) add(k + chain, sums[chain]);
    }
#pragma GCC unroll 4
    for (int k = Length / kChains * kChains; k < Length; ++k) add(k, sums[0]);
#pragma GCC unroll 4
    for (int distance = kChains / 2; distance > 0; distance /= 2) {
#pragma GCC unroll 4
      for (int chain = 0; chain < distance; ++chain) {
#pragma GCC unroll 8
        for (int g = 0; g < kGates; ++g) sums[chain][g] = sums[chain][g] + sums[chain + distance][g];
      }
    }
    return sums[0];
  }

  FUSED_RNN_INLINE static Units load_units(const float* from) noexcept {
    Units units;
#pragma GCC unroll 32
    for (int i = 0; i < kTile; ++i) units.parts[i] = V::load(from + i * kLanes).parts[0];
    return units;
  }
  FUSED_RNN_INLINE static void store_units(const Units& units, float* to) noexcept {
#pragma GCC unroll 32
    for (int i = 0; i < kTile; ++i) V(units.parts[i]).store(to + i * kLanes);
  }

  FUSED_RNN_INLINE static Sums load_sums(const float* from) noexcept {
    Sums sums;
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) sums[g] = load_units(from + g * kTile * kLanes);
    return sums;
  }

  // from_x of the next steps, by the sums of `product`. A part of a tile's sums is made for all of these steps.
  void products_ahead(const float* x) noexcept {
    constexpr int kPart = divisor_up_to(kSums, kVectorRegisters * 3 / 4 / kAhead);
    for (int part = 0; part < kTiles * kSums; part += kPart) {
      const float* weights = w_ih_ + (part / kSums * kSums * I + part % kSums) * kLanes;
      V sums[kAhead][kPart];
#pragma GCC unroll 32
      for (int i = 0; i < kAhead * kPart; ++i) {
        sums[i / kPart][i % kPart] = V::load(b_ih_ + (part + i % kPart) * kLanes);
      }
      for (int k = 0; k < I; ++k, weights += kSums * kLanes) {
#pragma GCC unroll 32
        for (int i = 0; i < kAhead * kPart; ++i) {
          V& sum = sums[i / kPart][i % kPart];
          sum = multiply_add(V::load(weights + i % kPart * kLanes), V(x[i / kPart * I + k]), sum);
        }
      }
#pragma GCC unroll 32
      for (int i = 0; i < kAhead * kPart; ++i) {
        sums[i / kPart][i % kPart].store(ahead_ + i / kPart * kWeights + (part + i % kPart) * kLanes);
      }
    }
  }

  // One step; from_x(tile) are the gates from x of the units of a tile.
  template <class FromX>
  FUSED_RNN_INLINE void advance(const float* x, float* y, const FromX& from_x) noexcept {
    const float* const h = h_[now_];
    if (!kInPlace) now_ = 1 - now_;
    float* const next = h_[now_];
    for (int tile = 0; tile < kTiles; ++tile) {
      const int first = tile * kTile * kLanes, gates = first * kGates;
      const Sums of_x = from_x(tile);
      const Sums of_h = product<H, static_chains(kSums, H)>(b_hh_ + gates, w_hh_ + gates * H, h);
      Pack<Units, Cell::kStates> state;
      state[0] = load_units(h + first);
      if constexpr (kHasC) state[1] = load_units(c_ + first);
      state = Cell::forward(of_x, of_h, state).state;
      store_units(state[0], next + first);
      if constexpr (kHasC) store_units(state[1], c_ + first);
    }
    write(next, x, y);
  }

  void write(const float* h, const float* x, float* y) const noexcept {
    const auto put = [&](int o, float value) FUSED_RNN_INLINE_LAMBDA { y[o] = residual_ ? value + x[o] : value; };
    if constexpr (O == 0) {
      for (int o = 0; o < H; ++o) put(o, h[o]);
    } else {
      for (int o = 0; o < O; ++o) {
        V sum(0);
        for (int i = 0; i < kPadded; i += kLanes) {
          sum = multiply_add(V::load(&linear_[o * kPadded + i]), V::load(h + i), sum);
        }
        put(o, linear_bias_[o] + sum_of_lanes(sum));
      }
    }
  }

  FUSED_RNN_INLINE static float sum_of_lanes(V vector) noexcept {
    float lanes[kLanes];
    vector.store(lanes);
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      for (int i = 0; i < distance; ++i) lanes[i] += lanes[i + distance];
    }
    return lanes[0];
  }

  alignas(kVectorBytes) float w_ih_[kWeights * I] = {};
  alignas(kVectorBytes) float w_hh_[kWeights * H] = {};
  alignas(kVectorBytes) float b_ih_[kWeights] = {}, b_hh_[kWeights] = {};
  alignas(kVectorBytes) float linear_[O > 0 ? O * kPadded : 1] = {};  // [O, padded]
  alignas(kVectorBytes) float h_[kInPlace ? 1 : 2][kPadded] = {};     // before and after a step, by turns
  alignas(kVectorBytes) float c_[kHasC ? kPadded : 1] = {};
  alignas(kVectorBytes) float ahead_[I > 8 ? kAhead * kWeights : 1] = {};  // [kAhead, kWeights]
  float linear_bias_[O > 0 ? O : 1] = {};
  int now_ = 0;  // which of h_ is the state
  bool residual_ = false;
};

template <int I, int H, int O = 0>
using StaticLstm = StaticLayer<LstmCell, I, H, O>;
template <int I, int H, int O = 0>
using StaticGru = StaticLayer<GruCell, I, H, O>;

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
