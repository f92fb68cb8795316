// cluster: up to 16 blocks of a thread block cluster own the units of their rows together (sm_90 and newer).
//
// Each block gathers its units in a stage and pushes them by st.async into the vector of every block of the cluster,
// its own included. Each store counts its bytes at the receiver's transaction barrier, so that the data is its own
// signal: no barrier of the cluster is in the loop.
//
//   update -> stage -> barrier of the block -> push to all -> wait until all bytes of one's own vector are there
//
// Two buffers suffice: a block pushes into a buffer only after it has the whole vector of the step between, to which
// every block contributed after reading that buffer for the last time.
#pragma once

#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class T>
class ClusterExchange {
 public:
  static constexpr int kBuffers = 2, kStages = 1;
  struct Global {};

  FUSED_RNN_DEVICE ClusterExchange(unsigned char* vectors, unsigned char* stage, unsigned char* barriers,
                                   const Global& /*global*/, const VectorLayout<T>& layout, int /*group*/,
                                   int vector_count)
      : layout_(layout),
        vectors_(reinterpret_cast<T*>(vectors)),
        stage_(reinterpret_cast<T*>(stage)),
        barriers_(reinterpret_cast<TransactionBarrier*>(barriers)),
        vector_count_(vector_count) {}

  FUSED_RNN_DEVICE void begin() {
    if (thread_index() == 0) {
      for (int b = 0; b < kBuffers; ++b) init_barrier(&barriers_[b], 1);
      publish_barriers();
      for (int b = 0; b < kBuffers; ++b) arrive_expecting(&barriers_[b], bytes());
    }
    sync_cluster();
  }
  FUSED_RNN_DEVICE const T* vector() const { return buffer(step_ % kBuffers); }
  FUSED_RNN_DEVICE void put(int column, int vector, int unit, T value) {
    stage_[(column * vector_count_ + vector) * layout_.units + unit] = value;
  }
  FUSED_RNN_DEVICE void send() {
    sync_block();
    const int next = (step_ + 1) % kBuffers;
    const int own =
        layout_.units < layout_.covered - layout_.first_unit ? layout_.units : layout_.covered - layout_.first_unit;
    const int chunks = own / kChunk, rows = layout_.columns * vector_count_;
    for (int i = thread_index(); i < layout_.ranks * rows * chunks; i += thread_count()) {
      const int to_rank = i / (rows * chunks), row = i / chunks % rows, first = i % chunks * kChunk;
      T* const place = buffer(next) + row / vector_count_ * layout_.stride + row % vector_count_ * layout_.padded +
                       layout_.first_unit + first;
      store_async(peer_address(shared_address(place), to_rank), load_words(stage_ + row * layout_.units + first),
                  peer_address(shared_address(&barriers_[next]), to_rank));
    }
  }
  FUSED_RNN_DEVICE void receive() {
    const int next = (step_ + 1) % kBuffers;
    wait_parity(&barriers_[next], step_ / kBuffers % 2);
    if (thread_index() == 0) arrive_expecting(&barriers_[next], bytes());
    ++step_;
  }

 private:
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
  FUSED_RNN_DEVICE T* buffer(int index) const { return vectors_ + index * layout_.columns * layout_.stride; }
  // What arrives at a block in a step.
  FUSED_RNN_DEVICE int bytes() const {
    return layout_.columns * vector_count_ * layout_.covered * static_cast<int>(sizeof(T));
  }

  VectorLayout<T> layout_;
  T *vectors_, *stage_;
  TransactionBarrier* barriers_;
  int vector_count_, step_ = 0;
};

}  // namespace fused_rnn::cuda
