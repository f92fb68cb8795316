// Runs the kernels of tools/micro in the emulator: what the GPU programs compare is right for every order of events.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "block_kernels.cuh"
#include "check.h"
#include "cuda/launch.h"
#include "kernels.cuh"

namespace {

using namespace fused_rnn::micro;
using fused_rnn::test::check;

constexpr unsigned kThreads = 64;

void cluster_barrier() {
  std::vector<int> finished(8);
  launch(ClusterBarrier{3, finished.data()}, {.grid_x = 8, .threads = kThreads, .cluster = 4}, nullptr);
  check(std::ranges::all_of(finished, [](int rounds) { return rounds == 3; }), "every block finishes");
}

// The smallest slice leaves most threads idle; the largest gives each thread several chunks.
void cluster_exchange(int size, int chunks) {
  constexpr int kRounds = 5, kClusters = 2;
  std::vector<uint32_t> result(static_cast<size_t>(kClusters) * size * chunks), now(result.size()), next(result.size());
  launch(ClusterExchange{kRounds, chunks, result.data()},
         {.grid_x = static_cast<unsigned>(kClusters * size),
          .threads = kThreads,
          .shared_bytes = ClusterExchange::shared_bytes(size, chunks),
          .cluster = static_cast<unsigned>(size)},
         nullptr);
  const int items = size * chunks;
  for (int i = 0; i < items; ++i) now[i] = first_word(i / chunks, 4 * (i % chunks));
  for (int round = 1; round < kRounds; ++round) {
    for (int i = 0; i < items; ++i) {
      const int rank = i / chunks;
      next[i] = next_word(now[i], now[(rank + 1) % size * chunks + i % chunks], rank);
    }
    now.swap(next);
  }
  for (int i = 0; i < kClusters * items; ++i) check(result[i] == now[i % items], "exchange, item " + std::to_string(i));
}

void grid_barrier() {
  constexpr int kBlocks = 5;
  BlockBarrier barrier{};
  std::vector<int> wrong(kBlocks), written(2 * kBlocks, -1);
  launch(GridBarrier{4, kBlocks, &barrier, wrong.data(), written.data(), true},
         {.grid_x = kBlocks, .threads = kThreads, .cooperative = true}, nullptr);
  check(std::ranges::all_of(wrong, [](int mark) { return mark == 0; }), "what was written before a barrier is there");
}

template <class T>
void matrix_products() {
  const auto sums = [](int rounds) {
    std::vector<float> result(static_cast<size_t>(kThreads) * MatrixProducts<T>::kTiles * 4);
    launch(MatrixProducts<T>{rounds, result.data()}, {.threads = kThreads}, nullptr);
    return result;
  };
  const std::vector<float> once = sums(1), thrice = sums(3);
  check(std::ranges::any_of(once, [](float x) { return x != 0.0f; }), "products of signs");
  for (size_t i = 0; i < once.size(); ++i) check(thrice[i] == 3 * once[i], "three rounds are three times one");
}

void copy() {
  constexpr int kWords = 4 * 1001, kBlocks = 2;
  std::vector<Words4> from(kWords / 4), to(kWords / 4);
  const LaunchShape shape{.grid_x = kBlocks, .threads = kThreads};
  int wrong = 0;
  const auto scrambled_words = [&](std::vector<Words4>& words, int* count_wrong) {
    launch(Scrambled{words[0].words, kWords, kBlocks, count_wrong}, shape, nullptr);
  };
  scrambled_words(from, nullptr);
  launch(Copy{from.data(), to.data(), kWords / 4, kBlocks}, shape, nullptr);
  scrambled_words(to, &wrong);
  check(wrong == 0, "the copy is right");
  to[1000].words[3] ^= 1;
  scrambled_words(to, &wrong);
  check(wrong == 1, "a wrong word is seen");
}

// h of every unit of two blocks, for an odd and an even number of steps.
template <int kLanes>
void small_loop() {
  using Loop = SmallLoop<kLanes, LoopParts::kAll>;
  const std::vector<float> weights = small_loop_values(Loop::kGates * Loop::kUnits * Loop::kUnits, 0.125f);
  const std::vector<float> inputs = small_loop_values(Loop::kGates * Loop::kUnits, 1.0f);
  for (const int rounds : {1, 4}) {
    std::vector<float> result(2 * Loop::kUnits);
    launch(Loop{rounds, weights.data(), inputs.data(), result.data()},
           {.grid_x = 2, .threads = Loop::kThreads, .shared_bytes = Loop::kSharedBytes}, nullptr);
    const std::vector<double> exact = small_loop_states(weights, inputs, rounds);
    for (size_t i = 0; i < result.size(); ++i) {
      check(std::abs(result[i] - exact[i % exact.size()]) < 1e-6, "state of item " + std::to_string(i));
    }
  }
}

template <Meeting kMeeting>
void local_barrier() {
  constexpr int kRounds = 5, kCount = 96;
  std::vector<uint32_t> result(kCount);
  launch(LocalBarrier<kMeeting>{kRounds, result.data()},
         {.threads = kCount, .shared_bytes = LocalBarrier<kMeeting>::shared_bytes(kCount)}, nullptr);
  check(result == local_barrier_words(kCount, kRounds), "every word went from warp to warp");
}

// Each under several orders of events.
void for_every_seed(void (*body)()) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    fused_rnn::emulator::set_seed(seed);
    body();
  }
}

}  // namespace

int main() {
  return fused_rnn::test::run({
      {"cluster_barrier_finishes", [] { for_every_seed(cluster_barrier); }},
      {"cluster_exchange_carries_every_slice",
       [] {
         for_every_seed([] {
           cluster_exchange(2, 1);
           cluster_exchange(4, 3);
           cluster_exchange(8, 17);
         });
       }},
      {"grid_barrier_orders_writes", [] { for_every_seed(grid_barrier); }},
      {"matrix_products_add_up_exactly",
       [] {
         matrix_products<BFloat16>();
         matrix_products<Float16>();
         matrix_products<TFloat32>();
       }},
      {"copies_are_compared", copy},
      {"the_small_loop_is_an_lstm",
       [] {
         small_loop<4>();
         small_loop<8>();
       }},
      {"barriers_of_a_block_order_writes",
       [] {
         for_every_seed(local_barrier<Meeting::kBlockBarrier>);
         for_every_seed(local_barrier<Meeting::kThreadsArrive>);
         for_every_seed(local_barrier<Meeting::kWarpsArrive>);
       }},
  });
}
