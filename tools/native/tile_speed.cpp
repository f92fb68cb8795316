// Times every register tile of the recurrent GEMM against the peak of one core's multiply-adds.
//
// Usage: tile_speed ROUNDS. A line for each tile: type (pairs: bfloat16 in pairs, where that pays), columns,
// rows, blocks, GFLOP/s, and its multiplications as a share of those at the peak. A sample of the peak stands before
// every sample of a tile, and the least time of many rounds counts, so that what else the machine does, and the
// frequency that it runs at, meet both alike. The operands of a tile fit L2.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/gemm/micro_kernel.h"
#include "cpu/runtime/machine.h"
#include "cpu/runtime/processor.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace fused_rnn;

constexpr int64_t kLength = 2 * kChunk;            // multiplications of a sum
constexpr int64_t kOperations = int64_t{1} << 17;  // multiply-adds of vectors in one sample, about 20 us

template <class F>
double seconds_of(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Multiply-adds in registers alone: twelve independent sums hide the latency of two units.
template <class Real>
[[gnu::noinline]] void peak_operations() {
  constexpr int kSums = 12;
  using V = Vec<Real>;
  V sums[kSums], factor(Real(0.5));
  for (V& sum : sums) sum = V(0);
  for (int64_t i = 0; i < kOperations / kSums; ++i) {
#pragma GCC unroll 12
    for (V& sum : sums) {
      sum = multiply_add(factor, factor, sum);
      asm volatile("" : "+x"(factor.parts[0]));  // else a product, where it is not fused, is computed once for all
    }
  }
  for (V& sum : sums) asm volatile("" : "+x"(sum.parts[0]));
}

template <class W>
struct Shape {
  int columns, rows, blocks;
  typename MicroKernels<W, 1>::Function function;
  double least_seconds = 1e9;

  int64_t operations() const { return kLength * columns * rows * blocks; }  // of vectors, in a call
};

template <class W, int Columns>
void add_shapes(std::vector<Shape<W>>& shapes) {
  using Tiles = MicroKernels<W, Columns>;
  for (int rows = 1; rows <= Tiles::kRows; ++rows) {
    for (int blocks = 1; blocks <= max_tile_blocks(Columns, rows); ++blocks)
      shapes.push_back({Columns, rows, blocks, Tiles::select(rows, blocks)});
  }
}

template <class T>
void time_tiles(const char* type, int rounds) {
  using W = WeightOf<T>;
  using Real = typename Terms<W>::Real;
  std::vector<Shape<W>> shapes;
  add_shapes<W, 2>(shapes);
  add_shapes<W, 3>(shapes);
  add_shapes<W, 4>(shapes);
  constexpr int kLanes = Vec<Real>::kLanes, kMostVectors = 64;  // more than the sums of any tile
  struct alignas(64) Line {
    char bytes[64];
  };
  // A multiplication takes as many bytes as a Real, whatever it multiplies.
  const auto lines = [](int64_t values) { return std::vector<Line>((values * sizeof(Real) + 63) / 64); };
  std::vector<Line> weights = lines(kLength * kMostVectors * kLanes), rows = lines(kLength * kMostVectors),
                    start = lines(kMostVectors * kLanes), tile = lines(kMostVectors * kLanes);
  const auto values = [](std::vector<Line>& from) { return reinterpret_cast<Real*>(from.data()); };
  std::fill_n(values(weights), kLength * kMostVectors * kLanes, Real(1e-6));
  std::fill_n(values(rows), kLength * kMostVectors, Real(1e-6));
  const auto* w = reinterpret_cast<const W*>(weights.data());
  const auto* r = reinterpret_cast<const RowOf<T>*>(rows.data());
  double least_peak_seconds = 1e9;
  for (int round = 0; round < rounds; ++round) {
    for (Shape<W>& shape : shapes) {
      least_peak_seconds = std::min(least_peak_seconds, seconds_of(peak_operations<Real>));
      const int64_t calls = kOperations / shape.operations();
      const TileStrides strides{
          kLength * shape.columns * kLanes, kLength * Terms<W>::kCount, kLength, kChunk, 0, nullptr};
      const double seconds = seconds_of([&] {
        for (int64_t call = 0; call < calls; ++call) {
          shape.function(strides, w, r, values(start), values(tile));
        }
      });
      shape.least_seconds = std::min(shape.least_seconds, seconds / static_cast<double>(calls));
    }
  }
  const double flops = 2.0 * kLanes;  // of a vector's multiply-add
  const double peak = flops * static_cast<double>(kOperations) / least_peak_seconds;
  for (const Shape<W>& shape : shapes) {
    const double speed = flops * static_cast<double>(shape.operations()) / shape.least_seconds;
    std::printf("%s %d %d %d %.4g %.4g\n", type, shape.columns, shape.rows, shape.blocks,
                speed / 1e9 * Terms<W>::kCount, speed / peak);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count == 2 ? std::atoi(arguments[1]) : 0;
  if (rounds < 1) {
    std::fprintf(stderr, "usage: tile_speed ROUNDS, at least 1\n");
    return 2;
  }
  time_tiles<float>("float", rounds);
  time_tiles<double>("double", rounds);
#if defined(FUSED_RNN_BFLOAT16_DOT)
#if defined(__x86_64__)
  const bool pays = is_amd_processor();  // elsewhere nothing multiplies in pairs: see csrc/cpu/dispatch.cpp
#else
  const bool pays = true;
#endif
  if (has_bfloat16_dot() && pays) time_tiles<PairedBFloat16>("pairs", rounds);
#endif
  return 0;
}
