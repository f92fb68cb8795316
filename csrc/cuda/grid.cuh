// grid: as many blocks as the weights need own the units of their rows together, and exchange them through L2.
//
//   update -> global memory, one of two buffers -> count the block -> wait for the group's count -> copy to shared
//   memory
//
// All blocks of a launch must be resident at once, so it is a cooperative launch, and what does not fit follows in
// another. Two buffers suffice: a block that writes one has passed the barrier at which every block had read it.
#pragma once

#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class T, int kVectors>
class GridExchange {
 public:
  static constexpr int kBuffers = 1, kStages = 0;
  static constexpr bool kNeedsClusters = false;
  static constexpr bool kShortSteps = false;
  struct Global {
    void* vectors;           // [groups of the launch][2][columns][vectors][padded]
    BlockBarrier* barriers;  // [groups of the launch]
  };

  FUSED_RNN_DEVICE GridExchange(unsigned char* vectors, unsigned char* /*stage*/, unsigned char* /*barriers*/,
                                const Global& global, const VectorLayout& layout, int group)
      : layout_(layout),
        copy_(reinterpret_cast<T*>(vectors)),
        apart_(layout.columns * kVectors * layout.padded),
        next_(static_cast<T*>(global.vectors) + static_cast<int64_t>(2) * group * apart_),
        barrier_(global.barriers + group) {}

  FUSED_RNN_DEVICE void begin(int /*rows*/) { sync_block(); }
  FUSED_RNN_DEVICE const T* vector() const { return copy_; }
  FUSED_RNN_DEVICE void put(int column, int vector, int unit, T value) {
    const int index = layout_.first_unit + unit;
    if (index < layout_.padded) next_[(column * kVectors + vector) * layout_.padded + index] = value;
  }
  FUSED_RNN_DEVICE void send(unsigned /*step*/, int /*rows*/) {
    sync_block();
    if (thread_index() == 0) arrive_blocks(barrier_);
  }
  FUSED_RNN_DEVICE void receive(unsigned step, int rows) {
    const uint32_t arrived = (step + 1) * static_cast<uint32_t>(layout_.ranks);
    if (thread_index() == 0) wait_blocks(barrier_, arrived);
    sync_block();
    constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
    // A warp copies whole rows.
    for (int row = warp_index(); row < rows * kVectors; row += kPersistentWarps) {
      const T* const from = next_ + row * layout_.padded;
      T* const to = copy_ + row / kVectors * layout_.stride + row % kVectors * layout_.padded;
      for (int i = lane_index() * kChunk; i < layout_.covered; i += kWarpLanes * kChunk) copy_async(to + i, from + i);
    }
    wait_copies();
    sync_block();
    next_ += apart_;
    apart_ = -apart_;
  }

 private:
  VectorLayout layout_;
  T* copy_;
  int apart_;  // from the buffer of this step to that of the next
  T* next_;
  BlockBarrier* barrier_;
};

}  // namespace fused_rnn::cuda
