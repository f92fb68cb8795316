// N values that belong to one hidden unit: its gates, its states, or what its backward pass needs.
#pragma once

#include "core/platform.h"

namespace fused_rnn {

template <class V, int N>
struct Pack {
  V values[N > 0 ? N : 1];  // N = 0 (nothing saved) still needs a complete type.

  FUSED_RNN_HD constexpr V& operator[](int index) { return values[index]; }
  FUSED_RNN_HD constexpr const V& operator[](int index) const { return values[index]; }
};

}  // namespace fused_rnn
