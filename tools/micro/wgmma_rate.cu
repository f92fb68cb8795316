// The rate of wgmma with weights in registers: 64 units by N rows, 16 hidden indices an instruction, the rows' vectors
// in shared memory. Blocks of one or two groups of four warps, one block on every multiprocessor.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

constexpr int kIndices = 8;  // instructions of a chain: 128 hidden indices

#if defined(__CUDA_ARCH__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Of a matrix in shared memory without swizzle: 8 rows x 16 bytes lie together, `leading` bytes from those of the next
// 8 hidden indices and `stride` bytes from those of the next 8 rows.
FUSED_RNN_DEVICE uint64_t matrix_descriptor(SharedAddress address, uint32_t leading, uint32_t stride) {
  return (address & 0x3ffffu) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32;
}
FUSED_RNN_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FUSED_RNN_DEVICE void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" ::: "memory");
}
FUSED_RNN_DEVICE void order_before_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// d[64 x N] += a[64 x 16] b[16 x N]; the rows of a warp are those of mma m16n8k16, and d has 4 floats for 8 columns.
FUSED_RNN_DEVICE void wgmma(float (&d)[4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, 1, 1, 1, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
FUSED_RNN_DEVICE void wgmma(float (&d)[8], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, "
      "1, 1, 1, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
FUSED_RNN_DEVICE void wgmma(float (&d)[16], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15}, {%16, %17, %18, %19}, %20, 1, 1, 1, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
FUSED_RNN_DEVICE void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, "
      "%35}, %36, 1, 1, 1, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#else

FUSED_RNN_DEVICE uint64_t matrix_descriptor(SharedAddress, uint32_t, uint32_t) { return 0; }
FUSED_RNN_DEVICE void begin_products() {}
FUSED_RNN_DEVICE void end_products() {}
FUSED_RNN_DEVICE void order_before_products() {}
template <int kCount>
FUSED_RNN_DEVICE void wgmma(float (&)[kCount], const uint32_t (&)[4], uint64_t) {}

#endif

// Weights and vectors are 1 or -1, by their place.
FUSED_RNN_HD inline uint32_t sign_bit(uint32_t seed, int row, int index) {
  return scrambled(seed + static_cast<uint32_t>(row) * 1024u + static_cast<uint32_t>(index)) >> 7 & 1u;
}
FUSED_RNN_HD inline uint32_t one(uint32_t seed, int row, int index) {  // bfloat16
  return 0x3f80u | sign_bit(seed, row, index) << 15;
}
constexpr uint32_t kOfWeights = 1u << 20, kOfVectors = 1u << 21;  // seeds

template <int kRows>
struct WeightStationary {
  static constexpr int kThreads = 256, kGroup = 128;
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * 16 * kIndices * kRows;
  int rounds;
  float* result;  // [groups of the first block][64][kRows]

  FUSED_RNN_DEVICE void operator()() const {
    const int lane = lane_index(), group = thread_index() / kGroup;
    const int unit = 64 * group + warp_index() % 4 * 16 + lane / 4;
    // [index / 8][row / 8][row % 8][index % 8]
    uint16_t* const vectors = reinterpret_cast<uint16_t*>(dynamic_shared());
    for (int i = thread_index(); i < 16 * kIndices * kRows; i += thread_count()) {
      const int index = i / (8 * kRows) * 8 + i % 8, row = i / 8 % kRows;
      vectors[i] = static_cast<uint16_t>(one(kOfVectors, row, index));
    }
    uint32_t weights[kIndices][4];
    for (int k = 0; k < kIndices; ++k) {
      for (int word = 0; word < 4; ++word) {
        const int row = unit + word % 2 * 8, index = 16 * k + word / 2 * 8 + 2 * (lane % 4);
        weights[k][word] = one(kOfWeights, row, index) | one(kOfWeights, row, index + 1) << 16;
      }
    }
    order_before_products();
    sync_block();
    float sums[kRows / 2] = {};
    for (int round = 0; round < rounds; ++round) {
      begin_products();
#pragma unroll
      for (int k = 0; k < kIndices; ++k) {
        const SharedAddress part = shared_address(vectors + k * 16 * kRows);
        wgmma(sums, weights[k], matrix_descriptor(part, 16 * kRows, 128));
      }
      end_products();
    }
    if (block_x() != 0) return;
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + 2 * (lane % 4) + i % 2;
      result[(unit + i / 2 % 2 * 8) * kRows + row] = sums[i];
    }
  }
};

template <int kRows>
void measure(const Gpu& gpu) {
  using Products = WeightStationary<kRows>;
  constexpr int kFew = 500, kMany = 10500;  // sums of whole numbers below 2^24 stay exact
  for (const int groups : {1, 2}) {
    const LaunchShape shape{.grid_x = static_cast<unsigned>(gpu.multiprocessors),
                            .threads = static_cast<unsigned>(Products::kGroup * groups),
                            .shared_bytes = Products::kSharedBytes};
    const DeviceArray<float> result(static_cast<size_t>(groups) * 64 * kRows);
    const Spread ns = nanoseconds_per_round(
        kFew, kMany, [&](int rounds) { launch(Products{rounds, result.data()}, shape, nullptr); });
    finish();
    const std::vector<float> found = result.read();
    bool right = true;
    for (int i = 0; i < groups * 64 * kRows; ++i) {
      int sum = 0;
      for (int k = 0; k < 16 * kIndices; ++k) {
        sum += sign_bit(kOfWeights, i / kRows, k) == sign_bit(kOfVectors, i % kRows, k) ? 1 : -1;
      }
      right = right && found[static_cast<size_t>(i)] == static_cast<float>(sum) * kMany;
    }
    const double operations = 2.0 * 64 * kRows * 16 * kIndices * groups;  // of one block in one round
    Line("wgmma_rate")
        .number("rows", kRows)
        .number("groups", groups)
        .nanoseconds(ns)
        .number("tflops", operations / ns.median * gpu.multiprocessors / 1e3)
        .flag("verified", right);
  }
}

}  // namespace

int main() {
  return report("wgmma_rate", [](const Gpu& gpu) {
    if (gpu.capability != 90) {
      Line("wgmma_rate").text("skipped", "wgmma is of compute capability 9.0 alone");
      return;
    }
    measure<8>(gpu);
    measure<16>(gpu);
    measure<32>(gpu);
    measure<64>(gpu);
  });
}
