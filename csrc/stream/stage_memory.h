// Memory of stages: what it is (zeroed_memory.h), and its sizes.
#pragma once

#include <cstdint>

#include "cpu/schedules/zeroed_memory.h"
#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Floats from one row of a result to the next: whole vectors.
inline int64_t padded_size(int64_t size) {
  constexpr int64_t kLanes = Vec<float>::kLanes;
  return (size + kLanes - 1) / kLanes * kLanes;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
