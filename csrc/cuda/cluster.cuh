// cluster: 2 to 16 blocks of a thread block cluster own the units of their rows together (sm_90 and newer).
//
// Each block gathers its units in a stage and pushes them by st.async into the vector of every block of the cluster,
// its own included. Each store counts its bytes at the receiver's transaction barrier, so that the data is its own
// signal: no barrier of the cluster is in the loop.
//
//   update -> stage -> barrier of the block -> push to all -> wait until all bytes of one's own vector are there
//
// Two buffers suffice: a block pushes into a buffer only after it has the whole vector of the step between, to which
// every block contributed after reading that buffer for the last time. There are two stages, since a warp may fill one
// while another still sends the step before; the barrier of the block is between that and the step after.
#pragma once

#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class T, int kVectors>
class ClusterExchange {
 public:
  static constexpr int kBuffers = 2, kStages = 2;
  static constexpr bool kNeedsClusters = true;
  static constexpr bool kShortSteps = false, kStoresFirst = false;
  struct Global {};

  FUSED_RNN_DEVICE ClusterExchange(unsigned char* vectors, unsigned char* stage, unsigned char* barriers,
                                   const Global& /*global*/, const VectorLayout& layout, int first_unit, int /*group*/)
      : layout_(layout),
        first_unit_(first_unit),
        vectors_(reinterpret_cast<T*>(vectors)),
        stage_(reinterpret_cast<T*>(stage)),
        barriers_(reinterpret_cast<TransactionBarrier*>(barriers)) {}

  FUSED_RNN_DEVICE void begin(int rows) {
    if (thread_index() == 0) {
      for (int b = 0; b < kBuffers; ++b) init_barrier(&barriers_[b], 1);
      publish_barriers();
      for (int b = 0; b < kBuffers; ++b) arrive_expecting(&barriers_[b], bytes(rows));
    }
    sync_cluster();
  }
  FUSED_RNN_DEVICE const T* vector(unsigned step) const { return buffer(step); }
  FUSED_RNN_DEVICE void put(unsigned step, int column, int vector, int unit, T value) {
    stage(step)[(column * kVectors + vector) * layout_.units + unit] = value;
  }
  FUSED_RNN_DEVICE void send(unsigned step, int rows) {
    sync_block();
    // A lane has 16 bytes of some rows of the stage, a power of two of which make a row. A warp sends its 32 to one
    // block after another: what goes to one should go together.
    const int unit = lane_index() * kChunk & (layout_.units - 1);
    if (first_unit_ + unit >= layout_.covered || warp_index() >= layout_.ranks) return;
    const SharedAddress first = shared_address(buffer(step + 1) + first_unit_ + unit);
    const SharedAddress barrier = shared_address(next_barrier(step));
    const unsigned end = static_cast<unsigned>(rows * kVectors), apart = kWarpLanes * kChunk >> layout_.units_log2;
#pragma unroll 1
    for (unsigned row = lane_index() * kChunk >> layout_.units_log2; row < end; row += apart) {
      const unsigned place = row / kVectors * layout_.stride + row % kVectors * layout_.padded;
      const SharedAddress to = first + static_cast<int>(place * sizeof(T));
      const Words4 words = load_words(stage(step) + (row << layout_.units_log2) + unit);
      int rank = warp_index();
#pragma unroll 1
      do {
        store_async(peer_address(to, rank), words, peer_address(barrier, rank));
        rank += kPersistentWarps;
      } while (rank < layout_.ranks);
    }
  }
  FUSED_RNN_DEVICE void receive(unsigned step, int rows) {
    wait_parity(next_barrier(step), step / kBuffers % 2);
    if (thread_index() == 0) arrive_expecting(next_barrier(step), bytes(rows));
  }

 private:
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
  FUSED_RNN_DEVICE T* buffer(unsigned step) const {
    return vectors_ + step % kBuffers * (layout_.columns * layout_.stride);
  }
  FUSED_RNN_DEVICE T* stage(unsigned step) const {
    return stage_ + step % kStages * (layout_.columns * kVectors << layout_.units_log2);
  }
  // Of the buffer into which the vector goes that a step makes.
  FUSED_RNN_DEVICE TransactionBarrier* next_barrier(unsigned step) const { return &barriers_[(step + 1) % kBuffers]; }
  // What arrives at a block in a step.
  FUSED_RNN_DEVICE int bytes(int rows) const { return rows * kVectors * layout_.covered * static_cast<int>(sizeof(T)); }

  const VectorLayout& layout_;
  int first_unit_;
  T *vectors_, *stage_;
  TransactionBarrier* barriers_;
};

}  // namespace fused_rnn::cuda
