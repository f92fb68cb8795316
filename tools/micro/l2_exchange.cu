// Exchange between blocks through L2: a flag's round trip, and slices sent to all with flags or as tagged packets.
//
//   flags     a block writes its slice, then raises its flag (release); who reads waits for the flag (acquire)
//   packets   each 8 bytes carry 4 bytes and the number of the round, so that they need no flag and no fence
//   lines     8 lanes write 128 bytes at once, of which the last 8 are the number of the round (as NCCL's LL128): right
//             only where a reader never sees a part of a line, which "verified" shows and no manual promises
//
// All use two buffers: a block sends a round only after it received the one before from everyone.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

FUSED_RNN_DEVICE void store_release(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
FUSED_RNN_DEVICE uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
// 8 bytes that others see whole.
struct alignas(8) Packet {
  uint32_t value, epoch;
};
FUSED_RNN_DEVICE void store_packet(Packet* to, Packet packet) {
  const uint64_t bits = static_cast<uint64_t>(packet.epoch) << 32 | packet.value;
  asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(to), "l"(bits) : "memory");
}
FUSED_RNN_DEVICE Packet load_packet(const Packet* from) {
  uint64_t bits;
  asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(bits) : "l"(from) : "memory");
  return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
}

// 16 bytes of a line.
struct Quad {
  uint64_t low, high;
};
FUSED_RNN_DEVICE void store_quad(Quad* to, Quad quad) {
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(quad.low), "l"(quad.high) : "memory");
}
FUSED_RNN_DEVICE Quad load_quad(const Quad* from) {
  Quad quad;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(quad.low), "=l"(quad.high) : "l"(from) : "memory");
  return quad;
}

constexpr int kFlagStride = 32;  // flags lie on lines of their own, 128 bytes apart

// Two blocks answer each other: a round is there and back.
struct FlagRoundTrip {
  static constexpr int kThreads = 32;
  int rounds;
  uint32_t* flags;  // [2 * kFlagStride], zero before the launch

  FUSED_RNN_DEVICE void operator()() const {
    if (thread_index() != 0) return;
    uint32_t* own = flags + block_x() * kFlagStride;
    const uint32_t* other = flags + (1 - block_x()) * kFlagStride;
    for (int round = 1; round <= rounds; ++round) {
      const uint32_t awaited = static_cast<uint32_t>(round);
      if (block_x() == 0) store_release(own, awaited);
      while (load_acquire(other) != awaited) {
      }
      if (block_x() == 1) store_release(own, awaited);
    }
  }
};

struct FlagExchange {
  static constexpr int kThreads = 256;
  int rounds, blocks, words;
  uint32_t *slices, *flags, *result;  // [2][blocks][words], [blocks * kFlagStride] of zeros, [blocks][words]

  FUSED_RNN_DEVICE void operator()() const {
    const int rank = block_x(), items = blocks * words;
    uint32_t* copies = reinterpret_cast<uint32_t*>(dynamic_shared());  // [2][blocks][words]
    uint32_t word = first_word(rank, thread_index());
    for (int round = 0; round < rounds; ++round) {
      uint32_t *sent = slices + round % 2 * items, *copy = copies + round % 2 * items;
      if (thread_index() < words) sent[rank * words + thread_index()] = word;
      sync_block();  // the slice is written before the flag's release
      if (thread_index() == 0) store_release(flags + rank * kFlagStride, static_cast<uint32_t>(round + 1));
      for (int i = thread_index(); i < blocks; i += thread_count()) {
        while (load_acquire(flags + i * kFlagStride) < static_cast<uint32_t>(round + 1)) {
        }
      }
      sync_block();  // every flag was seen before any slice is read
      for (int i = thread_index(); i < items; i += thread_count()) copy[i] = sent[i];
      sync_block();
      if (thread_index() < words) {
        word = next_word(copy[rank * words + thread_index()], copy[(rank + 1) % blocks * words + thread_index()], rank);
      }
    }
    if (thread_index() < words) result[rank * words + thread_index()] = word;
  }
};

struct PacketExchange {
  static constexpr int kThreads = 256;
  int rounds, blocks, words;
  Packet* packets;   // [2][blocks][words], no epoch of this launch before it
  uint32_t* result;  // [blocks][words]

  FUSED_RNN_DEVICE void operator()() const {
    const int rank = block_x(), items = blocks * words;
    uint32_t* copies = reinterpret_cast<uint32_t*>(dynamic_shared());  // [2][blocks][words]
    uint32_t word = first_word(rank, thread_index());
    for (int round = 0; round < rounds; ++round) {
      const uint32_t epoch = static_cast<uint32_t>(round + 1);
      Packet* sent = packets + round % 2 * items;
      uint32_t* copy = copies + round % 2 * items;
      if (thread_index() < words) store_packet(sent + rank * words + thread_index(), {word, epoch});
      for (int i = thread_index(); i < items; i += thread_count()) {
        Packet packet = load_packet(sent + i);
        while (packet.epoch != epoch) packet = load_packet(sent + i);
        copy[i] = packet.value;
      }
      sync_block();  // the copy is whole; the next round's goes to the other one
      if (thread_index() < words) {
        word = next_word(copy[rank * words + thread_index()], copy[(rank + 1) % blocks * words + thread_index()], rank);
      }
    }
    if (thread_index() < words) result[rank * words + thread_index()] = word;
  }
};

struct LineExchange {
  static constexpr int kThreads = 256, kQuads = 8, kWords = 30;  // of a line: quads, words besides the flag
  int rounds, blocks, words;
  Quad* lines;       // [2][blocks][lines of a slice][kQuads], no epoch of this launch before it
  uint32_t* result;  // [blocks][words]

  FUSED_RNN_HD static int lines_of(int words) { return (words + kWords - 1) / kWords; }

  FUSED_RNN_DEVICE void operator()() const {
    const int rank = block_x(), items = blocks * words, slice = lines_of(words), all = blocks * slice * kQuads;
    uint32_t* copies = reinterpret_cast<uint32_t*>(dynamic_shared());  // [2][blocks][words], then [words]
    uint32_t* own = copies + 2 * items;
    uint32_t word = first_word(rank, thread_index());
    for (int round = 0; round < rounds; ++round) {
      const uint64_t epoch = static_cast<uint64_t>(round + 1);
      Quad* sent = lines + round % 2 * all;
      uint32_t* copy = copies + round % 2 * items;
      if (thread_index() < words) own[thread_index()] = word;
      sync_block();  // the slice is whole, and the copy that is written next was read
      for (int i = thread_index(); i < slice * kQuads; i += thread_count()) {
        const int line = i / kQuads, quad = i % kQuads, at = line * kWords + 4 * quad;
        const auto pair = [&](int first) {
          const auto value = [&](int index) { return index < words ? own[index] : 0u; };
          return static_cast<uint64_t>(value(first + 1)) << 32 | value(first);
        };
        store_quad(sent + rank * slice * kQuads + i, {pair(at), quad == kQuads - 1 ? epoch : pair(at + 2)});
      }
      // Whole warps: the lanes of a line ask the last of them for the flag.
      for (int i = thread_index(); i < (all + kWarpLanes - 1) / kWarpLanes * kWarpLanes; i += thread_count()) {
        const Quad* const from = sent + (i < all ? i : all - 1);
        Quad quad = load_quad(from);
        while (fused_rnn::cuda::ballot(i % kQuads == kQuads - 1 && quad.high != epoch) != 0) quad = load_quad(from);
        const int line = i / kQuads, at = line % slice * kWords + i % kQuads * 4;
        const uint32_t found[4] = {static_cast<uint32_t>(quad.low), static_cast<uint32_t>(quad.low >> 32),
                                   static_cast<uint32_t>(quad.high), static_cast<uint32_t>(quad.high >> 32)};
        for (int k = 0; k < (i % kQuads == kQuads - 1 ? 2 : 4); ++k) {
          if (i < all && at + k < words) copy[line / slice * words + at + k] = found[k];
        }
      }
      sync_block();  // the copy is whole; the next round's goes to the other one
      if (thread_index() < words) {
        word = next_word(copy[rank * words + thread_index()], copy[(rank + 1) % blocks * words + thread_index()], rank);
      }
    }
    if (thread_index() < words) result[rank * words + thread_index()] = word;
  }
};

std::vector<uint32_t> expected_words(int blocks, int words, int rounds) {
  std::vector<uint32_t> now(static_cast<size_t>(blocks) * words), next(now.size());
  for (int i = 0; i < blocks * words; ++i) now[i] = first_word(i / words, i % words);
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < blocks * words; ++i) {
      next[i] = next_word(now[i], now[(i / words + 1) % blocks * words + i % words], i / words);
    }
    now.swap(next);
  }
  return now;
}

void round_trip() {
  const DeviceArray<uint32_t> flags(2 * kFlagStride);
  const LaunchShape shape{.grid_x = 2, .threads = 32, .cooperative = true};
  const Spread ns = nanoseconds_per_round(500, 4500, [&](int rounds) {
    flags.fill(0);
    launch(FlagRoundTrip{rounds, flags.data()}, shape, nullptr);
  });
  finish();
  const std::vector<uint32_t> last = flags.read();
  Line("l2_flag_round_trip").nanoseconds(ns).flag("verified", last[0] == 4500 && last[kFlagStride] == 4500);
}

void exchange(const Gpu& gpu, int blocks, int words) {
  constexpr int kFew = 200, kMany = 1700;
  const size_t items = static_cast<size_t>(blocks) * words;
  const LaunchShape shape{.grid_x = static_cast<unsigned>(blocks),
                          .threads = 256,
                          .shared_bytes = (2 * items + static_cast<size_t>(words)) * sizeof(uint32_t),
                          .cooperative = true};
  if (shape.shared_bytes > static_cast<size_t>(gpu.shared_bytes)) return;
  const DeviceArray<uint32_t> slices(2 * items), flags(static_cast<size_t>(blocks) * kFlagStride), result(items);
  const DeviceArray<Packet> packets(2 * items);
  const DeviceArray<Quad> lines(2 * static_cast<size_t>(blocks * LineExchange::lines_of(words)) * LineExchange::kQuads);
  const std::vector<uint32_t> right = expected_words(blocks, words, kMany);
  const auto measure = [&](const char* name, const auto& enqueue) {
    const Spread ns = nanoseconds_per_round(kFew, kMany, enqueue);
    finish();
    Line(name)
        .number("blocks", blocks)
        .number("slice_bytes", 4.0 * words)
        .nanoseconds(ns)
        .flag("verified", result.read() == right);
    result.fill(0xff);
  };
  measure("l2_flag_exchange", [&](int rounds) {
    flags.fill(0);
    launch(FlagExchange{rounds, blocks, words, slices.data(), flags.data(), result.data()}, shape, nullptr);
  });
  measure("l2_packet_exchange", [&](int rounds) {
    packets.fill(0);
    launch(PacketExchange{rounds, blocks, words, packets.data(), result.data()}, shape, nullptr);
  });
  measure("l2_line_exchange", [&](int rounds) {
    lines.fill(0);
    launch(LineExchange{rounds, blocks, words, lines.data(), result.data()}, shape, nullptr);
  });
}

}  // namespace

int main() {
  return report("l2_exchange", [](const Gpu& gpu) {
    round_trip();
    for (const int blocks : {2, 8, 32, std::min(128, gpu.multiprocessors)}) {
      for (const int words : {4, 16, 64}) exchange(gpu, blocks, words);
    }
  });
}
