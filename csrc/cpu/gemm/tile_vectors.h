// From the tiles of a GEMM to the vectors that an update works on: a few rows at a time, whole or partial.
#pragma once

#include "cpu/gemm/micro_kernel.h"
#include "cpu/simd/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Vectors that an update takes at once: a second one hides latency of the activations. LSTM, B = 16, H = 64, float32,
// AVX-512, one core of a 2.5 GHz Cascade Lake, 2026-11-21: forward 8.6 us a step instead of 9.2, backward 8.2 instead
// of 9.4.
inline constexpr int kUpdateParts = 2;

// What for_each_vector joins. Each kind of pair is one more form of the update to compile.
enum class Pairs { kNone, kRows, kRowsAndUnits };

// Those of a sweep's updates. Variants of bfloat16, and x86 processors without AVX2, are too rare to be worth the time
// to compile pairs.
#if defined(__x86_64__) && !defined(__AVX2__)
inline constexpr bool kJoinsVectors = false;
#else
inline constexpr bool kJoinsVectors = true;
#endif
template <class T, bool HasVariants>
inline constexpr Pairs kPairsOf = !kJoinsVectors                ? Pairs::kNone
                                  : !HasVariants                ? Pairs::kRowsAndUnits
                                  : std::is_same_v<T, BFloat16> ? Pairs::kNone
                                                                : Pairs::kRows;

// For for_each_vector: no row is special.
inline constexpr auto kNoRow = [](int64_t /*row*/) { return false; };

// The vectors that an update takes at once: a vector of units of `Parts` neighbouring rows of a tile or, OfUnits, as
// many neighbouring vectors of one row.
template <int Parts, class Count, bool OfUnits = false>
struct TileVector {
  static constexpr int kParts = Parts;
  int r, vector;  // the first row and vector within the tile
  int64_t row;    // the first row of the batch
  int64_t unit;   // the first unit
  Count count;    // units of each: WholeVector or an int

  int r_of(int part) const { return OfUnits ? r : r + part; }
  int vector_of(int part) const { return OfUnits ? vector + part : vector; }
  int64_t row_of(int part) const { return OfUnits ? row : row + part; }
  int64_t unit_of(int part) const { return OfUnits ? unit + part * count : unit; }
};

// Calls visit(TileVector) for everything a tile holds of `units` units. Rows of the batch for which `alone(row)` holds
// are visited one by one, so that the updates of two parts need not know of what is special about them.
template <int Vectors, Pairs Joined = Pairs::kRowsAndUnits, class TileOf, class Alone, class Visit>
FUSED_RNN_INLINE void for_each_vector(const TileOf& tile, int64_t units, const Alone& alone, const Visit& visit) {
  using Real = typename TileOf::Scalar;
  constexpr int64_t kLanes = Vec<Real>::kLanes;
  const int vectors = tile.blocks * Vectors;
  for (int vector = 0; vector < vectors; ++vector) {
    const int64_t unit = (tile.block * Vectors + vector) * kLanes;
    if (unit + kLanes > units) {  // partial vectors are too rare to have two forms
      const int count = static_cast<int>(units - unit);
      for (int r = 0; r < tile.rows && count > 0; ++r) visit(TileVector<1, int>{r, vector, tile.row + r, unit, count});
      continue;
    }
    using Whole = WholeVector<Real>;
    // Two vectors of a row without a partner, from an even one on.
    const int64_t pair_end = unit + (vector % 2 == 0 ? 2 : 1) * kLanes;
    const bool paired = vector / 2 * 2 + 1 < vectors && pair_end <= units;
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t row = tile.row + r;
      const bool is_alone = Joined == Pairs::kNone || alone(row);
      if constexpr (Joined != Pairs::kNone) {
        if (!is_alone && r + 1 < tile.rows && !alone(row + 1)) {
          visit(TileVector<kUpdateParts, Whole>{r, vector, row, unit, {}});
          ++r;
          continue;
        }
      }
      if constexpr (Joined == Pairs::kRowsAndUnits) {
        if (!is_alone && paired) {
          if (vector % 2 == 0) visit(TileVector<kUpdateParts, Whole, true>{r, vector, row, unit, {}});
          continue;
        }
      }
      visit(TileVector<1, Whole>{r, vector, row, unit, {}});
    }
  }
}

// Whether `holds(row)` for some row of the batch that is in a tile.
template <class TileOf, class Holds>
FUSED_RNN_INLINE bool any_row(const TileOf& tile, const Holds& holds) {
  for (int r = 0; r < tile.rows; ++r) {
    if (holds(tile.row + r)) return true;
  }
  return false;
}

// What a tile holds for these vectors, of one gate of `Gates`.
template <int Gates = 1, class TileOf, class Where>
FUSED_RNN_INLINE auto column_of(const TileOf& tile, const Where& where, int gate = 0) {
  using V = Vec<typename TileOf::Scalar>;
  Vec<typename TileOf::Scalar, Where::kParts> result;
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    result.parts[i] = V::load(tile.at(where.r_of(i), where.vector_of(i) * Gates) + gate * V::kLanes).parts[0];
  return result;
}

// The units of these vectors in rows of the batch.
template <class Where, class T>
FUSED_RNN_INLINE auto load_rows(const Where& where, const BatchRows<T>& rows) {
  using Element = std::remove_const_t<T>;
  Vec<RealOf<Element>, Where::kParts> result;
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    result.parts[i] = load<Element>(rows.row(where.row_of(i)) + where.unit_of(i), where.count).parts[0];
  return result;
}

template <class Where, class T>
FUSED_RNN_INLINE void store_rows(const Where& where, const Vec<RealOf<T>, Where::kParts>& values,
                                 const BatchRows<T>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    store<T>(rows.row(where.row_of(i)) + where.unit_of(i), Vec<RealOf<T>>(values.parts[i]), where.count);
}

// The same for a sweep's own buffers, whose rows are padded to whole vectors.
template <class Where, class T>
FUSED_RNN_INLINE auto load_padded(const Where& where, const BatchRows<T>& rows) {
  using Element = std::remove_const_t<T>;
  Vec<RealOf<Element>, Where::kParts> result;
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    result.parts[i] = Storage<Element>::load(rows.row(where.row_of(i)) + where.unit_of(i)).parts[0];
  return result;
}

template <class Where, class T>
FUSED_RNN_INLINE void store_padded(const Where& where, const Vec<RealOf<T>, Where::kParts>& values,
                                   const BatchRows<T>& rows) {
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    Storage<T>::store(rows.row(where.row_of(i)) + where.unit_of(i), Vec<RealOf<T>>(values.parts[i]));
}

// The same for what a GEMM reads as far as the padding. Its weights are zeros there, but zero times infinity is NaN:
// so the padding is zeros, too, whatever the lanes without a unit hold.
template <class Where, class T>
FUSED_RNN_INLINE void store_factors(const Where& where, const Vec<RealOf<T>, Where::kParts>& values,
                                    const BatchRows<T>& rows) {
  auto factors = values;
#pragma GCC unroll 8
  for (int i = 0; i < Where::kParts; ++i)
    factors.parts[i] = first_lanes(Vec<RealOf<T>>(values.parts[i]), where.count).parts[0];
  store_padded(where, factors, rows);
}

// Asks the memory for what an update of the tile will load, or will store (Write): for each row the vectors of the
// tile's units in `count` consecutive runs of `stride` elements. A vector here and a vector there is too scattered for
// the hardware to foresee.
template <int Vectors, bool Write = false, class TileOf, class T>
FUSED_RNN_INLINE void prefetch_tile(const TileOf& tile, int count, int64_t stride, const BatchRows<T>& rows) {
  const int64_t unit = tile.block * Vectors * Vec<typename TileOf::Scalar>::kLanes;
  const int vectors = tile.blocks * Vectors;
  for (int r = 0; r < tile.rows; ++r) {
    const T* row = rows.row(tile.row + r) + unit;
    for (int i = 0; i < count; ++i) {
      for (int v = 0; v < vectors; ++v) {
        __builtin_prefetch(row + i * stride + v * Vec<typename TileOf::Scalar>::kLanes, Write ? 1 : 0);
      }
    }
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
