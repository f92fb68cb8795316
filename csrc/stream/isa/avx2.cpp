// Streams for processors with AVX2 and FMA, and for those of them with AVX-VNNI.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "stream/unit.h"

namespace fused_rnn {
inline namespace avx2 {

const StreamUnit& stream_unit_with_dot();
const StreamUnit& stream_unit_with_dot() { return stream_unit_for<DotQuantizedFloat>(); }

}  // namespace avx2
}  // namespace fused_rnn
