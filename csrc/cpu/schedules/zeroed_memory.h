// Aligned memory that is zeros at first, laid out by an arena and owned by who keeps it from step to step.
#pragma once

#include <cstring>
#include <memory>
#include <new>

#include "cpu/runtime/arena.h"
#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct ReleaseZeroedMemory {
  void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{Arena::kAlignment}); }
};
using ZeroedMemory = std::unique_ptr<char, ReleaseZeroedMemory>;

// Memory for all that `lay_out` takes of an arena. Throws std::bad_alloc.
template <class LayOut>
ZeroedMemory zeroed(const LayOut& lay_out) {
  Arena counter(nullptr);
  lay_out(counter);
  ZeroedMemory memory(static_cast<char*>(::operator new(counter.used(), std::align_val_t{Arena::kAlignment})));
  std::memset(memory.get(), 0, counter.used());
  Arena arena(memory.get());
  lay_out(arena);
  return memory;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
