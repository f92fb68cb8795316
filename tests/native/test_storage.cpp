// Tests the conversions between storage types and vectors: every bfloat16 and float16, all roundings, partial vectors.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/simd/storage.h"

#include <cmath>
#include <limits>
#include <string>

#include "check.h"
#include "core/problem.h"

namespace {

using namespace fused_rnn;
using test::check;
using test::check_near;

static_assert(element_size(DataType::kFloat64) == sizeof(double) && element_size(DataType::kFloat32) == sizeof(float));
static_assert(element_size(DataType::kBFloat16) == sizeof(BFloat16) &&
              element_size(DataType::kFloat16) == sizeof(Float16));

// The formats, restated independently of the bit tricks under test.
template <class T>
struct Format;
template <>
struct Format<BFloat16> {
  static constexpr int kMantissaBits = 7, kExponentBits = 8;
  static constexpr const char* kName = "bfloat16 ";
};
template <>
struct Format<Float16> {
  static constexpr int kMantissaBits = 10, kExponentBits = 5;
  static constexpr const char* kName = "float16 ";
};

template <class T>
double value_of(uint16_t bits) {
  using F = Format<T>;
  const int mantissa = bits & ((1 << F::kMantissaBits) - 1);
  const int top = (1 << F::kExponentBits) - 1, exponent = (bits >> F::kMantissaBits) & top;
  const int bias = (1 << (F::kExponentBits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == top) return mantissa == 0 ? sign * INFINITY : std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - F::kMantissaBits);
  return sign * std::ldexp(mantissa + (1 << F::kMantissaBits), exponent - bias - F::kMantissaBits);
}

template <class T>
constexpr uint16_t kInfinityBits =
    static_cast<uint16_t>(((1 << Format<T>::kExponentBits) - 1) << Format<T>::kMantissaBits);

template <class T>
uint16_t stored(float x) {
  T out{};
  store(&out, Vec<float>(x), 1);
  return out.bits;
}

template <class T>
void check_every_value() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const T in{static_cast<uint16_t>(bits)};
    float lanes[Vec<float>::kLanes];
    load<T>(&in, 1).store(lanes);
    const float loaded = lanes[0];
    const std::string what = Format<T>::kName + std::to_string(bits);
    check_near(loaded, value_of<T>(in.bits), 0.0, "load of " + what);
    if (std::isnan(loaded)) {
      check((stored<T>(loaded) & 0x7FFF) > kInfinityBits<T>, "NaN stays NaN: " + what);
    } else {
      check(stored<T>(loaded) == in.bits, "store after load of " + what);
    }
  }
}

void every_value_survives_load_and_store() {
  check_every_value<BFloat16>();
  check_every_value<Float16>();
}

template <class T>
void check_roundings() {
  for (const uint16_t sign : {uint16_t(0), uint16_t(0x8000)}) {
    for (uint16_t bits = 0; bits + 1 < kInfinityBits<T>; ++bits) {
      const uint16_t low = bits | sign, high = (bits + 1) | sign, even = (bits & 1) == 0 ? low : high;
      const float middle = static_cast<float>((value_of<T>(low) + value_of<T>(high)) / 2);  // exact in float
      const float toward_low = std::nextafter(middle, 0.0f);
      const float toward_high = std::nextafter(middle, std::copysign(INFINITY, middle));
      const std::string what = Format<T>::kName + std::to_string(low);
      check(stored<T>(middle) == even, "a tie goes to the even neighbour of " + what);
      check(stored<T>(toward_low) == low, "just below the middle above " + what);
      check(stored<T>(toward_high) == high, "just above the middle above " + what);
    }
    const uint16_t largest = kInfinityBits<T> - 1;
    const double step = value_of<T>(largest) - value_of<T>(largest - 1);
    const float limit = static_cast<float>(value_of<T>(largest) + step / 2);
    const float factor = sign == 0 ? 1.0f : -1.0f;
    check(stored<T>(factor * std::nextafter(limit, 0.0f)) == (largest | sign), "the largest finite number");
    check(stored<T>(factor * limit) == (kInfinityBits<T> | sign), "beyond the largest number");
    check(stored<T>(factor * INFINITY) == (kInfinityBits<T> | sign), "infinity");
    check(stored<T>(factor * std::numeric_limits<float>::max()) == (kInfinityBits<T> | sign), "the largest float");
  }
}

void stores_round_to_nearest_even() {
  check_roundings<BFloat16>();
  check_roundings<Float16>();
}

template <class T>
T element(int value) {
  if constexpr (std::is_class_v<T>) {
    return T{stored<T>(static_cast<float>(value))};
  } else {
    return static_cast<T>(value);
  }
}

template <class T>
void check_partial_vectors(const std::string& name) {
  constexpr int kLanes = Vec<RealOf<T>>::kLanes;
  for (int count = 0; count <= kLanes + 1; ++count) {
    const int stays = std::min(count, kLanes);
    // On the heap and exactly as long as allowed, so that the address sanitizer sees one element too many.
    T* const from = new T[stays];
    for (int i = 0; i < stays; ++i) from[i] = element<T>(i + 1);
    const auto loaded = load<T>(from, count);
    RealOf<T> lanes[kLanes];
    loaded.store(lanes);
    for (int i = 0; i < kLanes; ++i) check_near(lanes[i], i < stays ? i + 1 : 0, 0.0, "load of part, " + name);
    T* const to = new T[stays];
    store<T>(to, loaded, count);
    check(std::memcmp(from, to, stays * sizeof(T)) == 0, "store of part, " + name);
    delete[] from;
    delete[] to;
  }
}

void partial_vectors_touch_only_their_elements() {
  check_partial_vectors<float>("float");
  check_partial_vectors<double>("double");
  check_partial_vectors<BFloat16>("bfloat16");
  check_partial_vectors<Float16>("float16");
}

template <class T>
void check_round_to() {
  test::Random random(6);
  for (int trial = 0; trial < 2000; ++trial) {
    const float x = static_cast<float>(random(-4.0, 4.0));
    float lanes[Vec<float>::kLanes];
    round_to<T>(Vec<float>(x)).store(lanes);
    for (const float lane : lanes) check_near(lane, value_of<T>(stored<T>(x)), 0.0, Format<T>::kName);
  }
}

void round_to_equals_store_then_load() {
  check_round_to<BFloat16>();
  check_round_to<Float16>();
  float lanes[Vec<float>::kLanes];
  round_to<float>(Vec<float>(0.1f)).store(lanes);
  check(lanes[0] == 0.1f, "float rounds to itself");
}

}  // namespace

int main() {
  return test::run({
      {"every value survives load and store", every_value_survives_load_and_store},
      {"stores round to nearest even", stores_round_to_nearest_even},
      {"partial vectors touch only their elements", partial_vectors_touch_only_their_elements},
      {"round_to equals store then load", round_to_equals_store_then_load},
  });
}
