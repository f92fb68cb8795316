// The CPU kernels for processors with AVX-512 (F, BW, DQ, VL), and for those of them with VNNI, or with VNNI and BF16.
#include "cpu/isa/avx512.h"
// (first: what follows needs its names)
#include "cpu/unit.h"

namespace fused_rnn {
inline namespace avx512 {

const CpuUnit& unit();
const CpuUnit& unit() { return unit_for<AnyProcessor>(); }

const CpuUnit& unit_with_vnni();
const CpuUnit& unit_with_vnni() { return unit_for<UnitTypes<BFloat16, float, DotQuantizedFloat>>(); }

const CpuUnit& unit_with_bf16();
const CpuUnit& unit_with_bf16() { return unit_for<UnitTypes<PairedBFloat16, PairedFloat, DotQuantizedFloat>>(); }

}  // namespace avx512
}  // namespace fused_rnn
