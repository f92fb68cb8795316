// The emulator's scheduler: fibers, and the events that wake them.
#include "emulator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "machine_state.h"

namespace fused_rnn::emulator {

namespace {

RandomOrder random_order;
std::string skipped;
std::vector<Where> sites;

std::string describe(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

// Notes the place; whether the synchronisation there is to be left out.
bool skips(const Where& where) {
  const auto is_here = [&](const Where& site) { return same_place(site, where); };
  if (std::none_of(sites.begin(), sites.end(), is_here)) sites.push_back(where);
  return !skipped.empty() && describe(where) == skipped;
}

class Machine {
 public:
  Machine(const Shape& shape, void (*kernel)(const void*), const void* object)
      : shape_(shape), kernel_(kernel), object_(object) {}

  void run() {
    if (shape_.threads % kLanes != 0 || shape_.grid_x % shape_.cluster != 0) {
      throw std::logic_error("the emulator runs whole warps and whole clusters");
    }
    std::vector<std::array<unsigned, 3>> groups;  // the first block of each cluster
    for (unsigned z = 0; z < shape_.grid_z; ++z) {
      for (unsigned y = 0; y < shape_.grid_y; ++y) {
        for (unsigned x = 0; x < shape_.grid_x; x += shape_.cluster) groups.push_back({x, y, z});
      }
    }
    std::shuffle(groups.begin(), groups.end(), random_order);
    // Blocks that need not meet are run one cluster after another: the hardware may do so, too.
    const size_t together = shape_.cooperative ? groups.size() : 1;
    for (size_t first = 0; first < groups.size(); first += together) {
      for (size_t i = first; i < first + together; ++i) start_cluster(groups[i]);
      schedule();
      forget();
    }
  }

  Thread* current = nullptr;
  std::string failure;

  // Gives the processor back; returns when the thread is chosen again.
  void yield() { current->fiber.leave(); }
  void wait(const Where& where) {
    current->state = Thread::kWaiting;
    current->waits_at = where;
    yield();
  }
  static void wake(std::vector<Thread*>& threads) {
    for (Thread* thread : threads) thread->state = Thread::kReady;
    threads.clear();
  }
  void meet(Meeting& meeting, int expected, const Where& where) {
    if (meeting.waiting.empty()) {
      meeting.first = where;
    } else if (!same_place(meeting.first, where)) {
      throw std::logic_error("barrier divergence: threads at " + describe(meeting.first) + " and " + describe(where));
    }
    meeting.waiting.push_back(current);
    if (static_cast<int>(meeting.waiting.size()) == expected) {
      wake(meeting.waiting);
      // A thread other than the last may go first.
      yield();
    } else {
      wait(where);
    }
  }
  bool all_resident() const { return shape_.cooperative; }
  std::map<const void*, std::vector<Thread*>> counting;  // threads that wait for a count of blocks
  std::vector<Flight> flights;

  void settle(Block& block, void* barrier) {
    Phase& phase = block.barriers.at(barrier);
    if (phase.pending != 0 || phase.bytes != 0) return;
    phase.pending = phase.arrivals;
    phase.parity ^= 1;
    wake(phase.waiting);
  }

 private:
  void start_cluster(const std::array<unsigned, 3>& first) {
    clusters_.push_back(std::make_unique<Cluster>());
    Cluster& cluster = *clusters_.back();
    for (unsigned rank = 0; rank < shape_.cluster; ++rank) {
      blocks_.push_back(std::make_unique<Block>());
      Block& block = *blocks_.back();
      cluster.blocks.push_back(&block);
      block.cluster = &cluster;
      block.running = static_cast<int>(shape_.threads);
      block.dynamic = std::make_unique<Memory>(shape_.shared_bytes);
      forbid_beyond(block.dynamic->data, block.dynamic->bytes, Memory::rounded(block.dynamic->bytes, 128));
      for (unsigned t = 0; t < shape_.threads; ++t) {
        threads_.push_back(std::make_unique<Thread>());
        Thread& thread = *threads_.back();
        if (t % kLanes == 0) warps_.push_back(std::make_unique<Warp>());
        thread.warp = warps_.back().get();
        thread.warp->threads.push_back(&thread);
        thread.block = &block;
        block.threads.push_back(&thread);
        thread.place = {static_cast<int>(t),
                        static_cast<int>(shape_.threads),
                        {static_cast<int>(first[0] + rank), static_cast<int>(first[1]), static_cast<int>(first[2])},
                        static_cast<int>(rank),
                        static_cast<int>(shape_.cluster)};
        thread.fiber.start([](void* self) { static_cast<Machine*>(self)->body(); }, this);
      }
    }
    cluster.running = static_cast<int>(shape_.cluster * shape_.threads);
  }

  void body() {
    try {
      kernel_(object_);
      leave_kernel();
    } catch (const std::exception& error) {
      failure = error.what();
    }
    current->state = Thread::kDone;
  }

  void leave_kernel() {
    Block& block = *current->block;
    const auto missed = [&](const Meeting& meeting) {
      if (meeting.waiting.empty()) return;
      throw std::logic_error("barrier divergence: a thread has left the kernel, others wait at " +
                             describe(meeting.first));
    };
    missed(block.meeting);
    missed(block.cluster->meeting);
    missed(current->warp->meeting);
    if (!current->copies.empty()) throw std::logic_error("a thread has left the kernel without waiting for its copies");
    --block.cluster->running;
    if (--block.running > 0) return;
    for (const Flight& flight : flights) {
      if (flight.target == &block) {
        throw std::logic_error("a block has ended before the store from " + describe(flight.where) + " arrived");
      }
    }
  }

  void schedule() {
    size_t live = warps_.size();
    std::vector<Warp*> warps;
    for (const auto& warp : warps_) warps.push_back(warp.get());
    // On a GPU, too, one warp may fall behind as far as the barriers allow.
    Warp* const slow = warps[random_order() % live];
    while (live > 0) {
      deliver_some();
      // The first warp that can run, from a random place on; the slow one mostly when no other can.
      const size_t start = random_order() % live;
      const bool slow_waits = random_order() % 4096 != 0;
      size_t chosen = live;
      for (size_t tried = 0; tried < live && chosen == live; ++tried) {
        const size_t index = (start + tried) % live;
        if ((warps[index] != slow || !slow_waits) && step(*warps[index])) chosen = index;
      }
      if (chosen == live && slow_waits) {
        const size_t index = static_cast<size_t>(std::find(warps.begin(), warps.begin() + live, slow) - warps.begin());
        if (index < live && step(*slow)) chosen = index;
      }
      if (chosen == live && !deliver_one()) throw std::logic_error("deadlock: " + who_waits());
      if (chosen < live && std::all_of(
                               warps[chosen]->threads.begin(), warps[chosen]->threads.end(),
                               [](const Thread* thread) { return thread->state == Thread::kDone; })) {
        std::swap(warps[chosen], warps[--live]);
      }
    }
    if (!flights.empty()) throw std::logic_error("a store from " + describe(flights[0].where) + " never arrived");
  }

  // Lets each lane that can run go on once.
  bool step(Warp& warp) {
    bool ran = false;
    for (Thread* thread : warp.threads) {
      if (thread->state != Thread::kReady) continue;
      ran = true;
      current = thread;
      thread->fiber.enter();
      if (!failure.empty()) throw std::logic_error(failure);
    }
    return ran;
  }

  void deliver_some() {
    while (!flights.empty() && random_order() % (flights.size() + 2) > 1) deliver_one();
  }
  bool deliver_one() {
    if (flights.empty()) return false;
    std::swap(flights[random_order() % flights.size()], flights.back());
    const Flight flight = std::move(flights.back());
    flights.pop_back();
    std::memcpy(flight.to, flight.value.data(), flight.value.size());
    flight.target->barriers.at(flight.barrier).bytes -= static_cast<int64_t>(flight.value.size());
    settle(*flight.target, flight.barrier);
    return true;
  }

  std::string who_waits() const {
    std::map<std::string, int> counts;
    for (const auto& thread : threads_) {
      if (thread->state == Thread::kWaiting) ++counts[describe(thread->waits_at)];
    }
    std::string text;
    for (const auto& [where, count] : counts) {
      text += (text.empty() ? "" : ", ") + std::to_string(count) + " threads at " + where;
    }
    return text;
  }

  void forget() {
    threads_.clear();
    warps_.clear();
    blocks_.clear();
    clusters_.clear();
  }

  Shape shape_;
  void (*kernel_)(const void*);
  const void* object_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
};

Machine* machine = nullptr;

}  // namespace

void run(const Shape& shape, void (*kernel)(const void*), const void* object) {
  Machine one(shape, kernel, object);
  machine = &one;
  one.run();
  machine = nullptr;
}

void set_seed(uint64_t seed) { random_order.state = seed; }
std::vector<std::string> synchronisation_sites() {
  std::vector<std::string> names;
  for (const Where& site : sites) names.push_back(describe(site));
  return names;
}
void skip_synchronisation(const std::string& site) { skipped = site; }

const Place& place() { return machine->current->place; }

void maybe_preempt() {
  if (random_order() % 16 == 0) machine->yield();
}

void sync_block(const Where& where) {
  if (skips(where)) return;
  Block& block = *machine->current->block;
  if (block.running < static_cast<int>(block.threads.size())) {
    throw std::logic_error("barrier divergence: a thread has left the kernel, others come to " + describe(where));
  }
  machine->meet(block.meeting, block.running, where);
}

void sync_warp(const Where& where) {
  if (!skips(where)) machine->meet(machine->current->warp->meeting, kLanes, where);
}

void sync_cluster(const Where& where) {
  if (skips(where)) return;
  Cluster& cluster = *machine->current->block->cluster;
  if (cluster.running < static_cast<int>(cluster.blocks.size() * cluster.blocks[0]->threads.size())) {
    throw std::logic_error("barrier divergence: a thread has left the kernel, others come to " + describe(where));
  }
  machine->meet(cluster.meeting, cluster.running, where);
}

void arrive_blocks(uint32_t* counter, const Where& where) {
  if (skips(where)) return;
  maybe_preempt();
  ++*counter;
  machine->wake(machine->counting[counter]);
}

void wait_blocks(const uint32_t* counter, uint32_t count, const Where& where) {
  if (skips(where)) return;
  if (!machine->all_resident())
    throw std::logic_error("wait_blocks without a cooperative launch, at " + describe(where));
  maybe_preempt();
  while (*counter < count) {
    machine->counting[counter].push_back(machine->current);
    machine->wait(where);
  }
}

// Made as late as is allowed.
void copy_async(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    throw std::logic_error("misaligned copy_async");
  }
  machine->current->copies.push_back({to, from, bytes});
}

void wait_copies(const Where& where) {
  if (skips(where)) return;
  for (const Thread::Copy& copy : machine->current->copies) std::memcpy(copy.to, copy.from, copy.bytes);
  machine->current->copies.clear();
}

const unsigned char* exchange_in_warp(const void* own, size_t bytes, const Where& where) {
  if (bytes > kRecord) throw std::logic_error("exchange_in_warp: record too large");
  maybe_preempt();
  Warp& warp = *machine->current->warp;
  // Read before the meeting: the last lane to come starts the next generation for all.
  unsigned char* records = warp.records[warp.generation & 1];
  std::memcpy(records + (machine->current->place.thread % kLanes) * bytes, own, bytes);
  if (warp.meeting.waiting.size() == kLanes - 1) ++warp.generation;
  machine->meet(warp.meeting, kLanes, where);
  return records;
}

void add_tile_product(const Fragments& own, int per_word, float (&sums)[4], const Where& where) {
  const auto* all = reinterpret_cast<const Fragments*>(exchange_in_warp(&own, sizeof own, where));
  add_products(all, machine->current->place.thread % kLanes, per_word, sums);
}

unsigned char* dynamic_shared() { return machine->current->block->dynamic->data; }

unsigned char* static_shared(const void* key, size_t bytes, size_t alignment) {
  auto& object = machine->current->block->objects[key];
  if (!object) object = std::make_unique<Memory>(bytes, std::max<size_t>(alignment, 16));
  return object->data;
}

unsigned char* in_peer(const unsigned char* own, int rank) {
  const Block& block = *machine->current->block;
  const std::vector<Block*>& blocks = block.cluster->blocks;
  if (!block.owns(own, 0)) throw std::logic_error("peer_address of what is not in the block's own shared memory");
  if (rank < 0 || rank >= static_cast<int>(blocks.size())) throw std::logic_error("peer_address: no such rank");
  return blocks[rank]->dynamic->data + (own - block.dynamic->data);
}

void init_barrier(void* barrier, int arrivals) {
  machine->current->block->barriers[barrier] = {arrivals, arrivals, 0, 0, {}};
}

void arrive_expecting(void* barrier, int bytes, const Where& where) {
  if (skips(where)) return;
  maybe_preempt();
  Block& block = *machine->current->block;
  Phase& phase = block.barriers.at(barrier);
  if (phase.pending == 0) throw std::logic_error("too many arrivals at " + describe(where));
  --phase.pending;
  phase.bytes += bytes;
  machine->settle(block, barrier);
}

void wait_parity(void* barrier, int parity, const Where& where) {
  if (skips(where)) return;
  maybe_preempt();
  Phase& phase = machine->current->block->barriers.at(barrier);
  // Complete means that the barrier is in the phase of the other parity.
  while (phase.parity == parity) {
    phase.waiting.push_back(machine->current);
    machine->wait(where);
  }
}

void store_async(unsigned char* to, const void* value, size_t bytes, unsigned char* barrier, const Where& where) {
  maybe_preempt();
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) throw std::logic_error("misaligned store at " + describe(where));
  const std::vector<Block*>& blocks = machine->current->block->cluster->blocks;
  // An H200 stops with "illegal instruction".
  if (blocks.size() == 1) throw std::logic_error("store_async in a launch without clusters, at " + describe(where));
  for (Block* block : blocks) {
    if (!block->owns(to, bytes)) continue;
    if (block->running == 0) throw std::logic_error("store to a block that has ended, at " + describe(where));
    if (!block->barriers.contains(barrier)) {
      throw std::logic_error("the barrier is not an initialised one of the block stored to, at " + describe(where));
    }
    const auto* first = static_cast<const unsigned char*>(value);
    machine->flights.push_back({block, to, barrier, {first, first + bytes}, where});
    return;
  }
  throw std::logic_error("store outside the shared memory of the cluster, at " + describe(where));
}

}  // namespace fused_rnn::emulator
