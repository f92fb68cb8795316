// The CPU kernels for any x86-64 processor, and any other without a unit of its own: 16-byte vectors.
#define FUSED_RNN_ISA baseline
#define FUSED_RNN_VECTOR_BYTES 16
#define FUSED_RNN_VECTOR_REGISTERS 16
#include "cpu/unit.h"

namespace fused_rnn {
inline namespace baseline {

const CpuUnit& unit();
const CpuUnit& unit() { return unit_for<AnyProcessor>(); }

}  // namespace baseline
}  // namespace fused_rnn
