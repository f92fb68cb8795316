// Streams for processors with AVX-512 (F, BW, DQ, VL), and for those of them with VNNI.
#include "cpu/isa/avx512.h"
// (first: what follows needs its names)
#include "stream/unit.h"

namespace fused_rnn {
inline namespace avx512 {

const StreamUnit& stream_unit_with_dot();
const StreamUnit& stream_unit_with_dot() { return stream_unit_for<DotQuantizedFloat>(); }

}  // namespace avx512
}  // namespace fused_rnn
