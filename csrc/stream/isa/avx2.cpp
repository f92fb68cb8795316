// Streams for processors with AVX2 and FMA, and for those of them with AVX-VNNI.
#define FUSED_RNN_ISA avx2
#define FUSED_RNN_VECTOR_BYTES 32
#define FUSED_RNN_VECTOR_REGISTERS 16
#include "stream/unit.h"

namespace fused_rnn {
inline namespace avx2 {

const StreamUnit& stream_unit_with_dot();
const StreamUnit& stream_unit_with_dot() { return stream_unit_for<DotQuantizedFloat>(); }

}  // namespace avx2
}  // namespace fused_rnn
