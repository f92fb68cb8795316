// grid: as many blocks as the weights need own the units of their rows together, and exchange them through L2.
//
//   update -> global memory, one of two buffers -> barrier of the group's blocks -> copy to shared memory
//
// All blocks of a launch must be resident at once, so it is a cooperative launch, and what does not fit follows in
// another. Two buffers suffice: a block that writes one has passed the barrier at which every block had read it.
#pragma once

#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class T>
class GridExchange {
 public:
  static constexpr int kBuffers = 1, kStages = 0;
  struct Global {
    void* vectors;           // [groups of the launch][2][columns][vectors][padded]
    BlockBarrier* barriers;  // [groups of the launch]
  };

  FUSED_RNN_DEVICE GridExchange(unsigned char* vectors, unsigned char* /*stage*/, unsigned char* /*barriers*/,
                                const Global& global, const VectorLayout<T>& layout, int group, int vector_count)
      : layout_(layout),
        global_(global),
        copy_(reinterpret_cast<T*>(vectors)),
        group_(group),
        vector_count_(vector_count),
        apart_(layout.columns * vector_count * layout.padded),
        next_(static_cast<T*>(global.vectors) + static_cast<int64_t>(2) * group * apart_) {}

  FUSED_RNN_DEVICE void begin() { sync_block(); }
  FUSED_RNN_DEVICE const T* vector() const { return copy_; }
  FUSED_RNN_DEVICE void put(int column, int vector, int unit, T value) {
    const int index = layout_.first_unit + unit;
    if (index < layout_.padded) next_[(column * vector_count_ + vector) * layout_.padded + index] = value;
  }
  FUSED_RNN_DEVICE void send() {}
  FUSED_RNN_DEVICE void receive() {
    sync_blocks(global_.barriers + group_, layout_.ranks);
    constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
    const int chunks = layout_.covered / kChunk;
    for (int i = thread_index(); i < layout_.columns * vector_count_ * chunks; i += thread_count()) {
      const int row = i / chunks, first = i % chunks * kChunk;
      store_words(copy_ + row / vector_count_ * layout_.stride + row % vector_count_ * layout_.padded + first,
                  load_words(next_ + row * layout_.padded + first));
    }
    sync_block();
    next_ += apart_;
    apart_ = -apart_;
  }

 private:
  VectorLayout<T> layout_;
  const Global& global_;
  T* copy_;
  int group_, vector_count_;
  int apart_;  // from the buffer of this step to that of the next
  T* next_;
};

}  // namespace fused_rnn::cuda
