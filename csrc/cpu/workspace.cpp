// The store of what waits, one for the process: the latest first.
#include "cpu/workspace.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <new>

#include "cpu/arena.h"

namespace fused_rnn {

namespace {

constexpr std::align_val_t kAlignment{Arena::kAlignment};

}  // namespace

struct Workspace::Store {
  std::mutex mutex;
  std::list<Block> waiting;
  size_t bytes = 0;  // of all that waits

  Block remove(std::list<Block>::iterator at) {
    const Block block = *at;
    bytes -= block.bytes;
    waiting.erase(at);
    return block;
  }
};

// Never destroyed: a thread may end its last call after the destructors of static objects.
Workspace::Store& Workspace::store() {
  static Store& store = *new Store;
  return store;
}

Workspace::Key Workspace::key_of(const Problem& p, const ForwardViews& views) {
  return {views.w_hh.data, views.w_ih.data, views.w_hr.data, p.cell.index,  p.type,
          is_variant(p),   p.directions,    p.hidden_size,   p.output_size, p.input_size};
}

Workspace::Workspace(const Key& key, size_t bytes) {
  {
    Store& kept = store();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    const auto found =
        std::find_if(kept.waiting.begin(), kept.waiting.end(), [&](const Block& block) { return block.key == key; });
    if (found != kept.waiting.end()) block_ = kept.remove(found);
  }
  if (block_.bytes >= bytes && block_.data != nullptr) return;
  ::operator delete(block_.data, kAlignment);
  block_ = {key, std::max<size_t>(bytes, 1), nullptr};
  block_.data = ::operator new(block_.bytes, kAlignment);
  if (key.w_hh != nullptr) std::memset(block_.data, 0, block_.bytes);
}

Workspace::~Workspace() {
  std::list<Block> own(1, block_), freed;
  {
    Store& kept = store();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    kept.waiting.splice(kept.waiting.begin(), own);
    kept.bytes += block_.bytes;
    while (kept.bytes > kMostBytes) {
      kept.bytes -= kept.waiting.back().bytes;
      freed.splice(freed.begin(), kept.waiting, std::prev(kept.waiting.end()));
    }
  }
  for (const Block& block : freed) ::operator delete(block.data, kAlignment);
}

size_t Workspace::waiting_bytes() {
  Store& kept = store();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  return kept.bytes;
}

}  // namespace fused_rnn
