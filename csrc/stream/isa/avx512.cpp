// Streams for processors with AVX-512 (F, BW, DQ, VL), and for those of them with VNNI.
#define FUSED_RNN_ISA avx512
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_VECTOR_REGISTERS 32
#include "stream/unit.h"

namespace fused_rnn {
inline namespace avx512 {

const StreamUnit& stream_unit_with_dot();
const StreamUnit& stream_unit_with_dot() { return stream_unit_for<DotQuantizedFloat>(); }

}  // namespace avx512
}  // namespace fused_rnn
