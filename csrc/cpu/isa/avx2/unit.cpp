// The CPU kernels for processors with AVX2 and FMA, and for those of them with AVX-VNNI.
#include "cpu/isa/avx2.h"
// (first: what follows needs its names)
#include "cpu/unit.h"

namespace fused_rnn {
inline namespace avx2 {

const CpuUnit& unit();
const CpuUnit& unit() { return unit_for<AnyProcessor>(); }

const CpuUnit& unit_with_vnni();
const CpuUnit& unit_with_vnni() { return unit_for<UnitTypes<BFloat16, float, DotQuantizedFloat>>(); }

}  // namespace avx2
}  // namespace fused_rnn
