// Random numbers, and which types are tested: what the tests of single steps and of products of matrices share.
#pragma once

#include <cstdint>
#include <vector>

#include "check.h"

namespace fused_rnn::test {

// Under sanitizers, which compile several times as long, every cell and every storage of weights has one layer, and
// products have one plain and one half type.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kEveryType = false;
using OtherType = float;
#else
inline constexpr bool kEveryType = true;
using OtherType = double;
#endif

template <class Real>
std::vector<Real> numbers(Random& random, int64_t count, double from, double to) {
  std::vector<Real> values(count);
  for (Real& value : values) value = static_cast<Real>(random(from, to));
  return values;
}

}  // namespace fused_rnn::test
