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
  // The count of the blocks waits for every store of the block that is under way, also for later ones.
  static constexpr bool kShortSteps = false, kStoresFirst = true;
  struct Global {
    void* vectors;           // [groups of the launch][2][columns][vectors][padded]
    BlockBarrier* barriers;  // [groups of the launch]
  };

  FUSED_RNN_DEVICE GridExchange(unsigned char* vectors, unsigned char* /*stage*/, unsigned char* /*barriers*/,
                                const Global& global, const VectorLayout& layout, int first_unit, int group)
      : layout_(layout),
        first_unit_(first_unit),
        copy_(reinterpret_cast<T*>(vectors)),
        sent_(static_cast<T*>(global.vectors) + static_cast<int64_t>(2) * group * elements()),
        barrier_(global.barriers + group) {}

  FUSED_RNN_DEVICE void begin(int /*rows*/) { sync_block(); }
  FUSED_RNN_DEVICE const T* vector(unsigned /*step*/) const { return copy_; }
  FUSED_RNN_DEVICE void put(unsigned step, int column, int vector, int unit, T value) {
    const int index = first_unit_ + unit;
    if (index < layout_.padded) buffer(step)[(column * kVectors + vector) * layout_.padded + index] = value;
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
      const T* const from = buffer(step) + row * layout_.padded;
      T* const to = copy_ + row / kVectors * layout_.stride + row % kVectors * layout_.padded;
      for (int i = lane_index() * kChunk; i < layout_.covered; i += kWarpLanes * kChunk) copy_async(to + i, from + i);
    }
    wait_copies();
    sync_block();
  }

 private:
  FUSED_RNN_DEVICE int elements() const { return layout_.columns * kVectors * layout_.padded; }
  // What the step makes; the step before is still read from the other one.
  FUSED_RNN_DEVICE T* buffer(unsigned step) const { return sent_ + step % 2 * elements(); }

  const VectorLayout& layout_;
  int first_unit_;
  T *copy_, *sent_;
  BlockBarrier* barrier_;
};

}  // namespace fused_rnn::cuda
