// The memory that calls work in, which outlives them: the next call finds it in the caches, and may find the weights
// that the last one packed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/problem.h"
#include "core/views.h"

namespace fused_rnn {

// A call's memory, of which it is the only user until its end. Then it waits for the next call with the same key.
//
// Packed weights are kept from the second call on. The first with a key only leaves the key behind, so that weights
// which are never seen again cost no more than their packing. Keys without memory count as if they had it: of all keys
// and memory, those used last stay, up to kMostBytes and kMostBlocks (weights that are joined for a call may have other
// addresses at each, and a key takes some 300 bytes itself).
class Workspace {
 public:
  static constexpr size_t kMostBytes = size_t{256} << 20;
  static constexpr size_t kMostBlocks = 1024;

  // What a forward pass packs, and from where. It says where weights may lie packed, and not that they are unchanged:
  // that is for the pass to find out (kept_weights.h). The default: nothing that a later call would look for.
  struct Key {
    const void *w_hh = nullptr, *w_ih = nullptr, *w_hr = nullptr;
    int cell = 0;
    DataType type = DataType::kFloat32;
    bool quantized = false, rounds_factors = false;
    bool variant = false;  // whose schedule may pack in another way
    int64_t directions = 0, hidden_size = 0, output_size = 0, input_size = 0;

    bool has_weights() const { return w_hh != nullptr || w_ih != nullptr; }
    bool operator==(const Key&) const = default;
  };
  static Key key_of(const Problem& problem, const ForwardViews& views);

  // Aligned to Arena::kAlignment. With a key that has weights, memory that no such call had before is zeros, and there
  // is none where the key was not seen lately.
  Workspace(const Key& key, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace(Workspace&&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Workspace& operator=(Workspace&&) = delete;

  void* data() const { return block_.data; }  // null: none

  static size_t waiting_bytes();  // of all memory that is kept

 private:
  struct Block {
    Key key;
    size_t bytes = 0;      // that it has, or would have
    void* data = nullptr;  // null: the key alone
  };
  struct Store;
  static Store& store();

  Block block_;
};

}  // namespace fused_rnn
