// The table of compiled units.
#include "cpu/dispatch.h"

#include <iterator>

#include "cpu/runtime/instruction_set.h"

namespace fused_rnn {

#if defined(FUSED_RNN_HAVE_NEON)
namespace neon {
const CpuUnit& unit();
const CpuUnit& unit_with_dot();
const CpuUnit& unit_with_bf16();
}  // namespace neon
#else
namespace baseline {
const CpuUnit& unit();
}
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
namespace avx2 {
const CpuUnit& unit();
const CpuUnit& unit_with_vnni();
}  // namespace avx2
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
namespace avx512 {
const CpuUnit& unit();
const CpuUnit& unit_with_vnni();
const CpuUnit& unit_with_bf16();
}  // namespace avx512
#endif

namespace {

// In the order of instruction_set.cpp.
constexpr const CpuUnit& (*kUnits[])() = {
#if defined(FUSED_RNN_HAVE_NEON)
    neon::unit,   neon::unit_with_dot,    neon::unit_with_bf16,
#else
    baseline::unit,
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
    avx2::unit,   avx2::unit_with_vnni,
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
    avx512::unit, avx512::unit_with_vnni, avx512::unit_with_bf16,
#endif
};
static_assert(std::size(kUnits) == kInstructionSets);

}  // namespace

std::vector<std::string> cpu_instruction_sets() {
  std::vector<std::string> names;
  for (int i = 0; i < kInstructionSets; ++i) {
    if (instruction_set(i).runs_here()) names.emplace_back(instruction_set(i).name);
  }
  return names;
}

const std::string& active_cpu_instruction_set() {
  static const std::string name = instruction_set(active_instruction_set()).name;
  return name;
}

const std::string& active_cpu_isa() {
  static const std::string name = active_cpu_instruction_set().substr(0, active_cpu_instruction_set().find('_'));
  return name;
}

const CpuUnit& active_cpu_unit() {
  static const CpuUnit& unit = kUnits[active_instruction_set()]();
  return unit;
}

}  // namespace fused_rnn
