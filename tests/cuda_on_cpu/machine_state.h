// What the emulator knows of a running kernel: threads, warps, blocks, clusters, and stores on their way.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace fused_rnn::emulator {

constexpr int kLanes = 32;
constexpr size_t kRecord = sizeof(Fragments);  // most bytes that a lane gives to exchange_in_warp

// splitmix64: a number is drawn at each turn of a thread, and at most calls of the vocabulary.
struct RandomOrder {
  using result_type = uint64_t;
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }
  uint64_t operator()() {
    uint64_t mixed = state += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return mixed ^ mixed >> 31;
  }
  uint64_t state = 0;
};

inline bool same_place(const Where& a, const Where& b) {
  if (a.line() != b.line()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Every lane computes its own four sums of a tile from all lanes' fragments.
inline void add_products(const Fragments* all, int lane, int per_word, float (&sums)[4]) {
  const int group = lane / 4, pair = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group * 4, column = (2 * pair + i % 2) * 4;
    float sum = 0.0f;
    // Column k of A is with the lanes of one number within their group of four; row k of B likewise.
    for (int second = 0; second < 2; ++second) {
      for (int holder = 0; holder < 4; ++holder) {
        const float* a = all[row + holder].a[2 * second + i / 2];
        const float* b = all[column + holder].b[second];
        for (int part = 0; part < per_word; ++part) sum += a[part] * b[part];
      }
    }
    sums[i] += sum;
  }
}

struct Block;
struct Warp;

struct Thread {
  Place place{};
  Warp* warp = nullptr;
  Block* block = nullptr;
  Fiber fiber;
  enum { kReady, kWaiting, kDone } state = kReady;
  Where waits_at;
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  std::vector<Copy> copies;  // asynchronous, not yet made
};

// Threads meet here; the last one to come lets all go on.
struct Meeting {
  std::vector<Thread*> waiting;
  Where first;
};

struct Warp {
  std::vector<Thread*> threads;
  Meeting meeting;
  int generation = 0;
  // Two sets: a lane may be in the next exchange before another has read this one, but not two ahead.
  alignas(Fragments) unsigned char records[2][kLanes * kRecord];
};

struct Phase {  // of a TransactionBarrier
  int arrivals, pending;
  int64_t bytes = 0;
  int parity = 0;
  std::vector<Thread*> waiting;
};

struct Memory {
  explicit Memory(size_t size, size_t alignment = 128)
      : bytes(size), data(static_cast<unsigned char*>(std::aligned_alloc(alignment, rounded(size, alignment)))) {
    std::memset(data, 0xFF, rounded(size, alignment));
  }
  ~Memory() { std::free(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  // aligned_alloc wants a multiple of the alignment; the rest is made unreadable by forbid_beyond.
  static size_t rounded(size_t size, size_t alignment) { return (size + alignment - 1) / alignment * alignment; }
  size_t bytes;
  unsigned char* data;
};

struct Cluster;
struct Block {
  Cluster* cluster;
  std::vector<Thread*> threads;
  int running;
  Meeting meeting;
  std::unique_ptr<Memory> dynamic;
  std::map<const void*, std::unique_ptr<Memory>> objects;  // static_shared
  std::map<void*, Phase> barriers;

  bool owns(const unsigned char* pointer, size_t size) const {
    const auto inside = [&](const Memory& memory) {
      return pointer >= memory.data && pointer + size <= memory.data + memory.bytes;
    };
    return inside(*dynamic) ||
           std::any_of(objects.begin(), objects.end(), [&](const auto& object) { return inside(*object.second); });
  }
};

struct Cluster {
  std::vector<Block*> blocks;
  int running;
  Meeting meeting;
};

struct Flight {  // a store on its way
  Block* target;
  unsigned char *to, *barrier;
  std::vector<unsigned char> value;
  Where where;
};

}  // namespace fused_rnn::emulator
