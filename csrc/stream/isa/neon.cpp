// Streams for any AArch64 processor, and for those of them with FEAT_DotProd.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "stream/unit.h"

namespace fused_rnn {
inline namespace neon {

const StreamUnit& stream_unit_with_dot();
const StreamUnit& stream_unit_with_dot() { return stream_unit_for<DotQuantizedFloat>(); }

}  // namespace neon
}  // namespace fused_rnn
