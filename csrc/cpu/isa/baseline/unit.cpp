// The CPU kernels for any x86-64 processor, and any other without a unit of its own: 16-byte vectors.
#include "cpu/isa/baseline.h"
// (first: what follows needs its names)
#include "cpu/unit.h"

namespace fused_rnn {
inline namespace baseline {

const CpuUnit& unit();
const CpuUnit& unit() { return unit_for<AnyProcessor>(); }

}  // namespace baseline
}  // namespace fused_rnn
