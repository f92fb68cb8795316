// The store of what waits, one for the process.
#include "cpu/runtime/workspace.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "cpu/runtime/arena.h"

namespace fused_rnn {

namespace {

constexpr std::align_val_t kAlignment{Arena::kAlignment};

void free_all(const std::vector<void*>& memory) {  // not under the lock, since it may take long
  for (void* data : memory) ::operator delete(data, kAlignment);
}

}  // namespace

struct Workspace::Store {
  using Blocks = std::list<Block>;
  struct Hash {
    size_t operator()(const Key& key) const {
      return std::hash<const void*>()(key.w_hh != nullptr ? key.w_hh : key.w_ih);
    }
  };

  // A fork while another thread holds the mutex would leave it locked in the child.
  Store() {
    pthread_atfork([] { store().mutex.lock(); }, [] { store().mutex.unlock(); }, [] { store().mutex.unlock(); });
  }

  std::mutex mutex;
  Blocks blocks;  // the latest first
  std::unordered_multimap<Key, Blocks::iterator, Hash> places;
  size_t bytes = 0;    // of all blocks
  size_t waiting = 0;  // of those with memory

  // The block with this key, rather one with memory than without; else an empty one.
  Block take(const Key& key) {
    const auto [begin, end] = places.equal_range(key);
    if (begin == end) return {};
    const auto waits = [](const auto& place) { return place.second->data != nullptr; };
    const auto waiting_one = std::find_if(begin, end, waits);
    return remove(waiting_one != end ? waiting_one : begin);
  }

  // Adds the latest block and returns the memory that is to be freed for it.
  std::vector<void*> put(const Block& block) {
    if (block.bytes > kMostBytes) return {block.data};
    blocks.push_front(block);
    places.emplace(block.key, blocks.begin());
    bytes += block.bytes;
    if (block.data != nullptr) waiting += block.bytes;
    std::vector<void*> freed;
    while (bytes > kMostBytes || blocks.size() > kMostBlocks) {
      const auto last = std::prev(blocks.end());
      const auto is_last = [&](const auto& place) { return place.second == last; };
      const auto [begin, end] = places.equal_range(last->key);
      freed.push_back(remove(std::find_if(begin, end, is_last)).data);
    }
    return freed;
  }

 private:
  Block remove(decltype(places)::iterator place) {
    const Block block = *place->second;
    blocks.erase(place->second);
    places.erase(place);
    bytes -= block.bytes;
    if (block.data != nullptr) waiting -= block.bytes;
    return block;
  }
};

// Never destroyed: a thread may end its last call after the destructors of static objects.
Workspace::Store& Workspace::store() {
  static Store& store = *new Store;
  return store;
}

Workspace::Key Workspace::key_of(const Problem& p, const ForwardViews& views) {
  return {.w_hh = views.w_hh.data,
          .w_ih = views.w_ih.data,
          .w_hr = views.w_hr.data,
          .cell = p.cell.index,
          .type = p.type,
          .quantized = p.quantized,
          .rounds_factors = p.rounds_factors,
          .variant = is_variant(p),
          .directions = p.directions,
          .hidden_size = p.hidden_size,
          .output_size = p.output_size,
          .input_size = p.input_size};
}

Workspace::Workspace(const Key& key, size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  std::vector<void*> freed;
  bool is_new = false;
  {
    Store& kept = store();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    block_ = kept.take(key);
    is_new = key.has_weights() && block_.bytes == 0;
    if (is_new) freed = kept.put({key, bytes, nullptr});
  }
  free_all(freed);
  if (is_new || (block_.data != nullptr && block_.bytes >= bytes)) return;
  ::operator delete(block_.data, kAlignment);
  block_ = {key, bytes, nullptr};
  block_.data = ::operator new(bytes, kAlignment);
  if (key.has_weights()) std::memset(block_.data, 0, bytes);
}

Workspace::~Workspace() {
  if (block_.data == nullptr) return;
  std::vector<void*> freed;
  {
    Store& kept = store();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    freed = kept.put(block_);
  }
  free_all(freed);
}

size_t Workspace::waiting_bytes() {
  Store& kept = store();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  return kept.waiting;
}

}  // namespace fused_rnn
