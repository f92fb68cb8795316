// Memory of stages: aligned, zeros at first, laid out by an arena.
#pragma once

#include <cstring>
#include <memory>
#include <new>

#include "cpu/runtime/arena.h"
#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct ReleaseStageMemory {
  void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{Arena::kAlignment}); }
};
using StageMemory = std::unique_ptr<char, ReleaseStageMemory>;

// Memory for all that `lay_out` takes of an arena. Throws std::bad_alloc.
template <class LayOut>
StageMemory stage_memory(const LayOut& lay_out) {
  Arena counter(nullptr);
  lay_out(counter);
  StageMemory memory(static_cast<char*>(::operator new(counter.used(), std::align_val_t{Arena::kAlignment})));
  std::memset(memory.get(), 0, counter.used());
  Arena arena(memory.get());
  lay_out(arena);
  return memory;
}

// Floats from one row of a result to the next: whole vectors.
inline int64_t padded_size(int64_t size) {
  constexpr int64_t kLanes = Vec<float>::kLanes;
  return (size + kLanes - 1) / kLanes * kLanes;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
