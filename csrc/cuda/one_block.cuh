// one_block: a block owns all units of its rows. What it exchanges stays in its own shared memory.
//
//   vector of step s -> GEMM, update -> vector of step s + 1, in the other of two buffers -> barrier of the block
#pragma once

#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class T, int kVectors>
class OneBlockExchange {
 public:
  static constexpr int kBuffers = 2, kStages = 0;
  static constexpr bool kNeedsClusters = false;
  static constexpr bool kShortSteps = true, kStoresFirst = false;
  struct Global {};

  FUSED_RNN_DEVICE OneBlockExchange(unsigned char* vectors, unsigned char* /*stage*/, unsigned char* /*barriers*/,
                                    const Global& /*global*/, const VectorLayout& layout, int /*first_unit*/,
                                    int /*group*/)
      : layout_(layout), vectors_(reinterpret_cast<T*>(vectors)) {}

  FUSED_RNN_DEVICE void begin(int /*rows*/) { sync_block(); }
  FUSED_RNN_DEVICE const T* vector(unsigned step) const { return buffer(step); }
  FUSED_RNN_DEVICE void put(unsigned step, int column, int vector, int unit, T value) {
    if (unit < layout_.padded) buffer(step + 1)[column * layout_.stride + vector * layout_.padded + unit] = value;
  }
  FUSED_RNN_DEVICE void send(unsigned /*step*/, int /*rows*/) {}
  FUSED_RNN_DEVICE void receive(unsigned /*step*/, int /*rows*/) { sync_block(); }

 private:
  FUSED_RNN_DEVICE T* buffer(unsigned step) const {
    return vectors_ + step % kBuffers * (layout_.columns * layout_.stride);
  }

  const VectorLayout& layout_;
  T* vectors_;
};

}  // namespace fused_rnn::cuda
