// Tests the sweeps whose GEMMs take bfloat16 in pairs, and the conversion that goes with them: those of AVX-512
// BF16, of FEAT_BF16, or of a stand-in for their instruction.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include "pairs.h"
// (before any product)
#include "cpu/gemm/micro_kernel.h"
#include "cpu/gemm/pack_weights.h"

#include <cmath>
#include <utility>

#include "cpu/runtime/processor.h"
#include "linear_cells.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// An odd size leaves the last pair half empty; 32 pairs are one chunk of a sum.
void every_size_around_a_pair_and_a_chunk_is_right() {
  for (const int64_t size : {1, 2, 3, 15, 16, 17, 33, 63, 64, 65, 127, 129}) {
    Sweeps::check_shape<IdentityCell, PairedBFloat16>({3, 2, 2, size, size});
    Sweeps::check_shape<TwoStateCell, PairedBFloat16>({3, 3, 1, 37, size});
  }
  for (int64_t batch = 0; batch <= 18; ++batch) Sweeps::check_shape<BilinearCell, PairedBFloat16>({3, batch, 2, 9, 9});
}

void rows_end_and_start_anew_anywhere() {
  for (const auto& [lengths, resets] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    for (const bool initial : {false, true}) {
      Shape s{7, 5, 2, 17, 17, initial, initial, false, lengths, resets};
      for (const int64_t input_size : {0, 1, 16, 17, 65}) {
        s.input_size = input_size;
        Sweeps::check_shape<IdentityCell, PairedBFloat16>(s);
      }
    }
  }
}

void a_row_does_not_depend_on_its_batch_nor_on_threads() {
  Shape s{6, 11, 2, 35, 35};
  Sweeps::check_rows<BilinearCell, PairedBFloat16>(s);
  s.input_size = 33;
  Sweeps::check_rows<BilinearCell, PairedBFloat16>(s);
  Sweeps::check_plans<BilinearCell, PairedBFloat16>(s, {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 2, 2}});
}

// Where a sum is exact in float32, pairs and single terms are the same bits.
void pairs_are_the_sums_of_single_terms() {
  constexpr int64_t kSize = 37;
  std::vector<PairedBFloat16> rows(kSize + 1);
  std::vector<float> single_rows(kSize);
  std::vector<BFloat16> matrix(kSize);
  for (int64_t i = 0; i < kSize; ++i) {
    store<BFloat16>(&matrix[i], Vec<float>(static_cast<float>(i % 7 - 3)), 1);
    single_rows[i] = static_cast<float>(i % 5 - 2) / 4;
    store<PairedBFloat16>(&rows[i], Vec<float>(single_rows[i]), 1);
  }
  rows[kSize] = {};
  const PackSource<BFloat16> source{matrix.data(), 1, kSize, kSize, 1, 0, 1, kSize, kSize};
  std::vector<BFloat16Pair> pairs(multiplications<BFloat16Pair>(kSize) * 2 * Vec<float>::kLanes);
  std::vector<float> singles(kSize * 2 * Vec<float>::kLanes);
  pack_block<1, 2>(source, 0, pairs.data());
  pack_block<1, 2>(source, 0, singles.data());
  float by_pairs = 0, by_singles = 0;
  const auto always = [](const auto&) { return true; };
  for_each_tile<2>(Gemm<BFloat16Pair>{pairs.data(), nullptr, 0, rows.data(), 0, kSize}, {0, 1}, {0, 1}, always,
                   [&](const auto& tile) { by_pairs = tile.values[0]; });
  for_each_tile<2>(Gemm<float>{singles.data(), nullptr, 0, single_rows.data(), 0, kSize}, {0, 1}, {0, 1}, always,
                   [&](const auto& tile) { by_singles = tile.values[0]; });
  check(by_pairs == by_singles && by_singles != 0, "the sum of pairs");
}

#if defined(FUSED_RNN_BFLOAT16_DOT)
// The instruction rounds as the portable conversion does. AVX-512 BF16 makes zeros of denormal numbers.
void conversion_rounds_to_nearest_even() {
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 0x3FFF) {  // beside and on every boundary of a rounding
    for (const uint64_t near : {bits, bits | 0x8000, (bits | 0x8000) + 1, bits & 0xFFFF0000}) {
      const float x = std::bit_cast<float>(static_cast<uint32_t>(near));
      PairedBFloat16 actual{};
      BFloat16 expected{};
      store<PairedBFloat16>(&actual, Vec<float>(x), 1);
      store<BFloat16>(&expected, Vec<float>(x), 1);
#if defined(__x86_64__)
      if (std::fpclassify(x) == FP_SUBNORMAL) expected.bits &= 0x8000;
#endif
      if (actual.bits != expected.bits) check(false, "conversion of " + std::to_string(near));
    }
  }
  check(true, "conversions");
}
#endif

#if defined(__aarch64__)
// The float toward zero from x, with a last bit of 1 unless it is x.
float rounded_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (nearest == x) return nearest;
  const float below = std::abs(nearest) > std::abs(x) ? std::nextafter(nearest, 0.0f) : nearest;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(below) | 1u);
}

// Products of bfloat16 are exact in float32, and sums of such numbers in double.
void two_products_and_then_the_whole_are_rounded_to_odd() {
  Random random(11);
  for (int trial = 0; trial < 20000; ++trial) {
    PairedBFloat16 w[2], v[2];
    for (int i = 0; i < 2; ++i) {
      w[i] = Number<PairedBFloat16>::from_double(random(0.5, 2) * (trial % 3 - 1.5));
      v[i] = Number<PairedBFloat16>::from_double(random(-4, 4));
    }
    const auto product = [&](int i) {
      return Number<PairedBFloat16>::to_double(w[i]) * Number<PairedBFloat16>::to_double(v[i]);
    };
    const float sum = static_cast<float>(random(-64, 64));
    const float expected = rounded_to_odd(double(sum) + double(rounded_to_odd(product(0) + product(1))));
    const Vec<float> found = Terms<BFloat16Pair>::multiply_add(repeated(w), repeated(v), Vec<float>(sum));
    check_near(found.parts[0][0], expected, 0.0, "trial " + std::to_string(trial));
  }
}
#endif

}  // namespace

int main() {
#if defined(FUSED_RNN_BFLOAT16_DOT)
  if (!has_bfloat16_dot()) return test::run({{"without the instruction", [] { check(true, "nothing to test"); }}});
#endif
  return test::run({
      {"every size around a pair and a chunk is right", every_size_around_a_pair_and_a_chunk_is_right},
      {"rows end and start anew anywhere", rows_end_and_start_anew_anywhere},
      {"a row does not depend on its batch nor on threads", a_row_does_not_depend_on_its_batch_nor_on_threads},
      {"pairs are the sums of single terms", pairs_are_the_sums_of_single_terms},
#if defined(FUSED_RNN_BFLOAT16_DOT)
      {"conversion rounds to nearest even", conversion_rounds_to_nearest_even},
#endif
#if defined(__aarch64__)
      {"two products and then the whole are rounded to odd", two_products_and_then_the_whole_are_rounded_to_odd},
#endif
  });
}
