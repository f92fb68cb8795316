// What comes into every multiprocessor of a cluster from L2, by bulk copies: each block fetches all of it, or a share
// that it sends to all blocks of the cluster at once (multicast). A round has a barrier of the cluster, too.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
FUSED_RNN_DEVICE void fetch(SharedAddress to, const void* from, int bytes, SharedAddress barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// To the same place in each block of the mask, whose own barrier at the same place counts the bytes.
FUSED_RNN_DEVICE void fetch_for_all(SharedAddress to, const void* from, int bytes, SharedAddress barrier, int mask) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(static_cast<uint16_t>(mask))
      : "memory");
}
#else
FUSED_RNN_DEVICE void fetch(SharedAddress, const void*, int, SharedAddress) {}
FUSED_RNN_DEVICE void fetch_for_all(SharedAddress, const void*, int, SharedAddress, int) {}
#endif

constexpr int kBuffer = 128 << 10;  // bytes; what is more goes to the same places again, where it is the same
constexpr int kPiece = 4 << 10;     // of a copy
constexpr int kBegin = 128;         // of the buffer: bulk copies want 16 bytes, whole lines are better

template <bool kMulticast>
struct Incoming {
  static constexpr int kThreads = 128;
  int rounds, bytes;
  const uint32_t* source;  // [bytes / 4], scrambled numbers of the place in the buffer
  int* wrong;              // [blocks]

  FUSED_RNN_DEVICE void operator()() const {
    TransactionBarrier* const barrier = reinterpret_cast<TransactionBarrier*>(dynamic_shared());
    const uint32_t* const buffer = reinterpret_cast<const uint32_t*>(dynamic_shared() + kBegin);
    const int size = cluster_size(), rank = cluster_rank();
    if (thread_index() == 0) {
      init_barrier(barrier, 1);
      publish_barriers();
    }
    sync_cluster();  // the barriers of every block are ready
    for (int round = 0; round < rounds; ++round) {
      if (thread_index() == 0) arrive_expecting(barrier, bytes);
      sync_cluster();  // every block expects this round, and has waited for the one before
      if (thread_index() == 0) send(barrier, shared_address(buffer), rank, size);
      wait_parity(barrier, round % 2);
    }
    sync_cluster();  // no block leaves while copies to it are on their way
    bool right = true;
    for (int i = thread_index(); i < (bytes < kBuffer ? bytes : kBuffer) / 4; i += thread_count()) {
      right = right && buffer[i] == scrambled(static_cast<uint64_t>(i));
    }
    if (!right) wrong[block_x()] = 1;
  }

 private:
  FUSED_RNN_DEVICE void send(TransactionBarrier* barrier, SharedAddress buffer, int rank, int size) const {
    const unsigned char* const from = reinterpret_cast<const unsigned char*>(source);
    const int begin = kMulticast ? rank * (bytes / size) : 0, end = kMulticast ? begin + bytes / size : bytes;
    const int piece = end - begin < kPiece ? end - begin : kPiece;
    for (int at = begin; at < end; at += piece) {
      const SharedAddress to = buffer + static_cast<SharedAddress>(at % kBuffer);
      if constexpr (kMulticast) {
        fetch_for_all(to, from + at, piece, shared_address(barrier), (1 << size) - 1);
      } else {
        fetch(to, from + at, piece, shared_address(barrier));
      }
    }
  }
};

template <bool kMulticast>
void measure(const Gpu& gpu, const DeviceArray<uint32_t>& source, int size, int kilobytes) {
  constexpr int kFew = 20, kMany = 220;
  const int bytes = kilobytes << 10;
  LaunchShape shape{.grid_x = static_cast<unsigned>(size),
                    .threads = Incoming<kMulticast>::kThreads,
                    .shared_bytes = static_cast<size_t>(kBegin + kBuffer),
                    .cluster = static_cast<unsigned>(size)};
  const int most = active_clusters<Incoming<kMulticast>>(shape);
  Line line("multicast");
  line.flag("multicast", kMulticast).number("cluster", size).number("kilobytes", kilobytes);
  if (most == 0) {
    line.text("skipped", "no such cluster fits this device");
    return;
  }
  shape.grid_x = static_cast<unsigned>(size * std::max(1, std::min(most, gpu.multiprocessors / size)));
  const DeviceArray<int> wrong(shape.grid_x);
  wrong.fill(0);
  const Spread ns = nanoseconds_per_round(kFew, kMany, [&](int rounds) {
    launch(Incoming<kMulticast>{rounds, bytes, source.data(), wrong.data()}, shape, nullptr);
  });
  finish();
  const std::vector<int> marks = wrong.read();
  line.number("clusters", shape.grid_x / static_cast<unsigned>(size))
      .nanoseconds(ns)
      .number("bytes_per_ns", bytes / ns.median)
      .flag("verified", std::all_of(marks.begin(), marks.end(), [](int mark) { return mark == 0; }));
}

}  // namespace

int main() {
  return report("multicast", [](const Gpu& gpu) {
    if (!gpu.has_clusters) {
      Line("multicast").text("skipped", "clusters need compute capability 9.0");
      return;
    }
    constexpr int kMost = 256;  // KiB
    std::vector<uint32_t> words(kMost << 8);
    for (size_t i = 0; i < words.size(); ++i) words[i] = scrambled(i % (kBuffer / 4));
    const DeviceArray<uint32_t> source(words.size());
    source.write(words);
    for (const int size : {2, 4, 8, 16}) {
      for (const int kilobytes : {16, 64, 128, kMost}) {
        measure<false>(gpu, source, size, kilobytes);
        measure<true>(gpu, source, size, kilobytes);
      }
    }
  });
}
