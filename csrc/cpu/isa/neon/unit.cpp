// The CPU kernels for any AArch64 processor, and for those of them with FEAT_DotProd, or with that and FEAT_BF16.
#include "cpu/isa/neon.h"
// (first: what follows needs its names)
#include "cpu/unit.h"

namespace fused_rnn {
inline namespace neon {

const CpuUnit& unit();
const CpuUnit& unit() { return unit_for<AnyProcessor>(); }

const CpuUnit& unit_with_dot();
const CpuUnit& unit_with_dot() { return unit_for<UnitTypes<BFloat16, float, DotQuantizedFloat>>(); }

const CpuUnit& unit_with_bf16();
const CpuUnit& unit_with_bf16() { return unit_for<UnitTypes<PairedBFloat16, PairedFloat, DotQuantizedFloat>>(); }

}  // namespace neon
}  // namespace fused_rnn
