// cluster: 2 to 16 blocks of a thread block cluster own the units of their rows together (sm_90 and newer).
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

template <class T, int kVectors>
class ClusterExchange {
 public:
  static constexpr int kBuffers = 2, kStages = 2;
  static constexpr bool kNeedsClusters = true;
  static constexpr bool kShortSteps = false;
  struct Global {};

  FUSED_RNN_DEVICE ClusterExchange(unsigned char* vectors, unsigned char* stage, unsigned char* barriers,
                                   const Global& /*global*/, const VectorLayout& layout, int /*group*/)
      : layout_(layout),
        now_(reinterpret_cast<T*>(vectors)),
        next_(now_ + layout.columns * layout.stride),
        stage_(reinterpret_cast<T*>(stage)),
        stage_apart_(layout.columns * kVectors * layout.units),
        barriers_(reinterpret_cast<TransactionBarrier*>(barriers)) {}

  FUSED_RNN_DEVICE void begin(int rows) {
    if (thread_index() == 0) {
      for (int b = 0; b < kBuffers; ++b) init_barrier(&barriers_[b], 1);
      publish_barriers();
      for (int b = 0; b < kBuffers; ++b) arrive_expecting(&barriers_[b], bytes(rows));
    }
    sync_cluster();
  }
  FUSED_RNN_DEVICE const T* vector() const { return now_; }
  FUSED_RNN_DEVICE void put(int column, int vector, int unit, T value) {
    stage_[(column * kVectors + vector) * layout_.units + unit] = value;
  }
  FUSED_RNN_DEVICE void send(unsigned step, int rows) {
    sync_block();
    // A warp serves whole blocks. An item is 16 bytes of the stage, of which a power of two make a row.
    const int items = (rows * kVectors << layout_.units_log2) / kChunk;
    for (int rank = warp_index(); rank < layout_.ranks; rank += kPersistentWarps) {
      const SharedAddress barrier = peer_address(shared_address(next_barrier(step)), rank);
#pragma unroll 1
      for (int item = lane_index(); item < items; item += kWarpLanes) {
        const int in_stage = item * kChunk, row = in_stage >> layout_.units_log2, unit = in_stage & (layout_.units - 1);
        if (layout_.first_unit + unit >= layout_.covered) continue;
        T* const place =
            next_ + row / kVectors * layout_.stride + row % kVectors * layout_.padded + layout_.first_unit + unit;
        store_async(peer_address(shared_address(place), rank), load_words(stage_ + in_stage), barrier);
      }
    }
  }
  FUSED_RNN_DEVICE void receive(unsigned step, int rows) {
    wait_parity(next_barrier(step), step / kBuffers % 2);
    if (thread_index() == 0) arrive_expecting(next_barrier(step), bytes(rows));
    T* const before = now_;
    now_ = next_;
    next_ = before;
    stage_ += stage_apart_;
    stage_apart_ = -stage_apart_;
  }

 private:
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
  // Of the buffer into which the vector goes that a step makes.
  FUSED_RNN_DEVICE TransactionBarrier* next_barrier(unsigned step) const { return &barriers_[(step + 1) % kBuffers]; }
  // What arrives at a block in a step.
  FUSED_RNN_DEVICE int bytes(int rows) const { return rows * kVectors * layout_.covered * static_cast<int>(sizeof(T)); }

  VectorLayout layout_;
  T *now_, *next_, *stage_;
  int stage_apart_;  // to the stage of the next step, since slow warps may still read this one
  TransactionBarrier* barriers_;
};

}  // namespace fused_rnn::cuda
