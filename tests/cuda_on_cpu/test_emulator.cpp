// Tests the emulator itself: that right kernels get right results, and that each kind of wrong one is caught.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/device_math.cuh"
#include "cuda/launch.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::cuda;
using fused_rnn::test::check;
using fused_rnn::test::Random;

// A kernel made of a function that each thread calls.
struct Body {
  static constexpr int kThreads = 1024;
  const std::function<void()>& body;
  void operator()() const { body(); }
};

void run_kernel(const LaunchShape& shape, const std::function<void()>& body, uint64_t seed = 1) {
  emulator::set_seed(seed);
  launch(Body{body}, shape, nullptr);
}

// What the emulator says of a kernel that breaks a rule; "" for none.
std::string complaint(const LaunchShape& shape, const std::function<void()>& body, uint64_t seed = 1) {
  try {
    run_kernel(shape, body, seed);
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

void check_complaint(const std::string& said, const std::string& expected) {
  check(said.find(expected) != std::string::npos, "expected \"" + expected + "\", got \"" + said + "\"");
}

// Each thread passes its number to the next over shared memory; what a missing barrier does is seen as poison or as a
// number of the round before.
std::vector<int> rotate(bool first_barrier, bool second_barrier, uint64_t seed) {
  constexpr unsigned kThreads = 96;
  std::vector<int> result(kThreads);
  run_kernel(
      {.threads = kThreads, .shared_bytes = kThreads * sizeof(int)},
      [&] {
        int* shared = reinterpret_cast<int*>(dynamic_shared());
        int value = thread_index();
        for (int round = 0; round < 4; ++round) {
          shared[thread_index()] = value;
          if (first_barrier) sync_block();
          value = shared[(thread_index() + 1) % thread_count()];
          if (second_barrier) sync_block();
        }
        result[thread_index()] = value;
      },
      seed);
  return result;
}

void a_missing_block_barrier_changes_the_result() {
  int without_first = 0, without_second = 0;
  const std::vector<int> right = rotate(true, true, 1);
  for (int i = 0; i < 96; ++i) check(right[i] == (i + 4) % 96, "rotated by four");
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    check(rotate(true, true, seed) == right, "the order does not matter to a right kernel");
    without_first += rotate(false, true, seed) != right;
    without_second += rotate(true, false, seed) != right;
  }
  check(without_first == 5, "the first barrier is missed under every seed");
  check(without_second >= 3, "the second barrier is missed under most seeds");
}

void shared_memory_starts_poisoned() {
  run_kernel({.threads = 32, .shared_bytes = 64}, [] {
    check(std::isnan(reinterpret_cast<float*>(dynamic_shared())[thread_index() % 16]), "dynamic");
    check(std::isnan(static_shared<double>()), "static");
  });
}

void static_shared_memory_is_one_object_for_each_block() {
  std::vector<int> seen(6);
  run_kernel({.grid_x = 3, .grid_y = 2, .threads = 64}, [&] {
    if (thread_index() == 40) static_shared<int>() = 10 * block_x() + block_y();
    sync_block();
    if (thread_index() == 0) seen[block_x() * 2 + block_y()] = static_shared<int>();
  });
  check(seen == std::vector<int>{0, 1, 10, 11, 20, 21}, "each block its own");
}

void shuffles_and_votes_see_all_lanes() {
  run_kernel({.threads = 64}, [] {
    const auto number = static_cast<uint32_t>(thread_index());
    const auto of_warp = static_cast<uint32_t>(warp_index() * 32);
    check(shuffle(number, 5) == of_warp + 5, "shuffle");
    check(shuffle_xor(number, 3) == (number ^ 3u), "shuffle_xor");
    check(ballot(lane_index() % 4 == 1) == 0x22222222u, "ballot");
  });
}

// Fragments by the formulas of the PTX manual, one element at a time.
void a_matrix_tile_has_the_layout_of_the_manual() {
  Random random(3);
  float a[16][16], b[16][8], expected[16][8] = {};
  for (auto& row : a) {
    for (float& x : row) x = to_float(round_float(BFloat16{}, static_cast<float>(random(-1, 1))));
  }
  for (auto& row : b) {
    for (float& x : row) x = to_float(round_float(BFloat16{}, static_cast<float>(random(-1, 1))));
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 16; ++k) expected[i][j] += a[i][k] * b[k][j];
    }
  }
  const auto pack = [](float low, float high) {
    return static_cast<uint32_t>(round_float(BFloat16{}, low).bits) |
           static_cast<uint32_t>(round_float(BFloat16{}, high).bits) << 16;
  };
  run_kernel({.threads = 32}, [&] {
    const int group = lane_index() >> 2, in_group = lane_index() & 3;
    uint32_t fragment_a[4], fragment_b[2];
    for (int i = 0; i < 8; i += 2) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      fragment_a[i / 2] = pack(a[row][column], a[row][column + 1]);
    }
    for (int i = 0; i < 4; i += 2) {
      const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      fragment_b[i / 2] = pack(b[row][group], b[row + 1][group]);
    }
    float d[4] = {1, 2, 3, 4};
    mma(BFloat16{}, d, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
      test::check_near(d[i], expected[row][column] + static_cast<float>(i + 1), 1e-5, "sum");
    }
  });
}

// The same for m16n8k8, whose factors lose the lowest 13 bits.
void a_tf32_tile_has_the_layout_of_the_manual() {
  Random random(4);
  float a[16][8], b[8][8], expected[16][8] = {};
  for (auto& row : a) {
    for (float& x : row) x = round_tfloat32(static_cast<float>(random(-1, 1)));
  }
  for (auto& row : b) {
    for (float& x : row) x = round_tfloat32(static_cast<float>(random(-1, 1)));
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 8; ++k) expected[i][j] += a[i][k] * b[k][j];
    }
  }
  run_kernel({.threads = 32}, [&] {
    const int group = lane_index() >> 2, in_group = lane_index() & 3;
    uint32_t fragment_a[4], fragment_b[2];
    for (int i = 0; i < 4; ++i) {
      const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? in_group : in_group + 4;
      fragment_a[i] = float_to_bits(a[row][column]);
    }
    for (int i = 0; i < 2; ++i) fragment_b[i] = float_to_bits(b[in_group + 4 * i][group]) | 0x0FFFu;
    float d[4] = {1, 2, 3, 4};
    mma(TFloat32{}, d, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
      test::check_near(d[i], expected[row][column] + static_cast<float>(i + 1), 1e-5, "sum");
    }
  });
}

constexpr int kBarrierPlace = 64;  // bytes before the barrier in the shared memory of the two-block kernels

// Each thread of block 0 stores 16 bytes to block 1, which waits for them, or does not.
void push(bool waits, bool counted, int offset, uint64_t seed) {
  run_kernel(
      {.grid_x = 2, .threads = 32, .shared_bytes = 1024, .cluster = 2},
      [&] {
        auto* barrier = reinterpret_cast<TransactionBarrier*>(dynamic_shared() + kBarrierPlace);
        unsigned char* data = dynamic_shared() + 128 + 16 * thread_index();
        if (thread_index() == 0) {
          init_barrier(barrier, 1);
          publish_barriers();
          arrive_expecting(barrier, counted ? 512 : 528);
        }
        sync_cluster();
        if (cluster_rank() == 0) {
          const auto number = static_cast<uint32_t>(thread_index());
          store_async(peer_address(shared_address(data + offset), 1), {{number, number, number, number}},
                      peer_address(shared_address(barrier), 1));
        } else if (waits) {
          wait_parity(barrier, 0);
          check(load_words(data).words[3] == static_cast<uint32_t>(thread_index()), "the stored number");
        }
      },
      seed);
}

void asynchronous_stores_arrive_before_their_barrier_completes() {
  for (uint64_t seed = 1; seed <= 5; ++seed) push(true, true, 0, seed);
}

template <class Call>
std::string complaint_of(Call call) {
  try {
    call();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

void broken_rules_of_clusters_are_reported() {
  check_complaint(complaint_of([] { push(false, true, 0, 2); }), "a block");
  check_complaint(complaint_of([] { push(true, false, 0, 1); }), "deadlock: 32 threads at test_emulator.cpp");
  check_complaint(complaint_of([] { push(true, true, 4, 1); }), "misaligned store");
  check_complaint(complaint_of([] { push(true, true, 1024, 1); }), "not in the block's own shared memory");
  check_complaint(complaint({.threads = 32, .shared_bytes = 16},
                            [] {
                              const SharedAddress own = shared_address(dynamic_shared());
                              store_async(own, Words4{}, own);
                            }),
                  "launch without clusters");
}

void broken_rules_of_barriers_are_reported() {
  check_complaint(complaint({.threads = 64},
                            [] {
                              if (thread_index() < 32) sync_block();
                            }),
                  "barrier divergence");
  check_complaint(complaint({.threads = 64},
                            [] {
                              if (thread_index() < 32) {
                                sync_block();
                              } else {
                                sync_block();
                              }
                            }),
                  "barrier divergence: threads at");
  check_complaint(complaint({.grid_x = 2, .threads = 32, .cluster = 2},
                            [] {
                              if (cluster_rank() == 0) sync_cluster();
                            }),
                  "barrier divergence");
  check_complaint(complaint({.threads = 48}, [] {}), "whole warps");
}

// Two groups of three blocks: without the wait a block would read a count that others still raise.
void a_count_of_blocks_lets_a_group_wait_for_each_other() {
  uint32_t counts[2] = {};
  BlockBarrier barriers[2] = {};
  const auto kernel = [&] {
    const int group = block_x() / 3;
    uint32_t awaited = 0;
    const auto meet = [&] {
      sync_block();
      if (thread_index() == 0) {
        arrive_blocks(&barriers[group]);
        wait_blocks(&barriers[group], awaited += 3);
      }
      sync_block();
    };
    for (uint32_t round = 1; round <= 3; ++round) {
      counts[group] += 1;
      meet();
      check(counts[group] == round * 192, "all threads have counted");
      meet();
    }
  };
  run_kernel({.grid_x = 6, .threads = 64, .cooperative = true}, kernel);
  check_complaint(complaint({.grid_x = 6, .threads = 64}, kernel), "without a cooperative launch");
}

void an_asynchronous_copy_is_there_after_its_wait() {
  alignas(16) const float source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  run_kernel({.threads = 32, .shared_bytes = 512}, [&] {
    float* own = reinterpret_cast<float*>(dynamic_shared()) + 4 * thread_index();
    copy_async(own, source + 4);
    check(std::isnan(own[0]), "not before");
    wait_copies();
    check(own[0] == 5 && own[3] == 8, "after");
  });
  const auto without_wait = [&] { copy_async(dynamic_shared(), source); };
  check_complaint(complaint({.threads = 32, .shared_bytes = 512}, without_wait), "without waiting for its copies");
}

void a_skipped_synchronisation_is_skipped_and_listed() {
  const auto kernel = [] {
    if (thread_index() == 40) static_shared<int>() = 7;
    sync_block();
    static_shared<long>() += static_shared<int>();
  };
  run_kernel({.threads = 64}, kernel);
  const std::string site = emulator::synchronisation_sites().back();
  check(site.find("test_emulator.cpp:") == 0, "the place is named: " + site);
  emulator::skip_synchronisation(site);
  int poisoned = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    run_kernel(
        {.threads = 64},
        [&] {
          kernel();
          poisoned += static_shared<int>() != 7;
        },
        seed);
  }
  emulator::skip_synchronisation("");
  check(poisoned > 0, "some thread reads before the write");
}

void float16_and_bfloat16_round_to_nearest_even() {
  check(round_float(BFloat16{}, 1.00390625f).bits == 0x3F80, "bfloat16 tie goes down to even");
  check(round_float(BFloat16{}, 1.01171875f).bits == 0x3F82, "bfloat16 tie goes up to even");
  check(round_float(Float16{}, 1.00048828125f).bits == 0x3C00, "float16 tie goes down to even");
  check(round_float(Float16{}, 65536.0f).bits == 0x7C00, "float16 overflows to infinity");
  check(std::isnan(to_float(round_float(BFloat16{}, NAN))), "a NaN stays");
}

// An error of the GPU's tanh of 2^-11 moves a result by one bfloat16 at most, or by a quarter of those between 1/2
// and 1.
void coarse_activations_are_within_a_quarter_of_a_rounding() {
  double of_tanh = 0.0, of_sigmoid = 0.0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = cuda::to_float(cuda::BFloat16{static_cast<uint16_t>(bits)});
    const float h = raw(tanh(cuda::CoarseFloat(x))), s = raw(sigmoid(cuda::CoarseFloat(x)));
    if (std::isnan(x)) {
      check(std::isnan(h) && std::isnan(s), "a NaN stays");
      continue;
    }
    const double exact = std::tanh(static_cast<double>(x));
    of_tanh = std::max(of_tanh, exact == 0.0 ? std::abs(h) : std::abs(h / exact - 1.0));
    of_sigmoid = std::max(of_sigmoid, std::abs(s - 1.0 / (1.0 + std::exp(-static_cast<double>(x)))));
  }
  check(0x1p-12 < of_tanh && of_tanh < 0x1.01p-11, "the relative error of tanh: " + std::to_string(of_tanh));
  check(0x1p-13 < of_sigmoid && of_sigmoid < 0x1.01p-12, "the error of sigmoid: " + std::to_string(of_sigmoid));
}

}  // namespace

int main() {
  return fused_rnn::test::run(
      {{"a_missing_block_barrier_changes_the_result", a_missing_block_barrier_changes_the_result},
       {"shared_memory_starts_poisoned", shared_memory_starts_poisoned},
       {"static_shared_memory_is_one_object_for_each_block", static_shared_memory_is_one_object_for_each_block},
       {"shuffles_and_votes_see_all_lanes", shuffles_and_votes_see_all_lanes},
       {"a_matrix_tile_has_the_layout_of_the_manual", a_matrix_tile_has_the_layout_of_the_manual},
       {"a_tf32_tile_has_the_layout_of_the_manual", a_tf32_tile_has_the_layout_of_the_manual},
       {"asynchronous_stores_arrive_before_their_barrier_completes",
        asynchronous_stores_arrive_before_their_barrier_completes},
       {"broken_rules_of_clusters_are_reported", broken_rules_of_clusters_are_reported},
       {"broken_rules_of_barriers_are_reported", broken_rules_of_barriers_are_reported},
       {"a_count_of_blocks_lets_a_group_wait_for_each_other", a_count_of_blocks_lets_a_group_wait_for_each_other},
       {"an_asynchronous_copy_is_there_after_its_wait", an_asynchronous_copy_is_there_after_its_wait},
       {"a_skipped_synchronisation_is_skipped_and_listed", a_skipped_synchronisation_is_skipped_and_listed},
       {"float16_and_bfloat16_round_to_nearest_even", float16_and_bfloat16_round_to_nearest_even},
       {"coarse_activations_are_within_a_quarter_of_a_rounding",
        coarse_activations_are_within_a_quarter_of_a_rounding}});
}
