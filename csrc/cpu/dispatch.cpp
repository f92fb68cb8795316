// The table of compiled units and the choice among them.
#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

#include "cpu/runtime/machine.h"
#include "cpu/runtime/processor.h"

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

struct Entry {
  const char* name;
  bool (*runs_here)();
  const CpuUnit& (*unit)();
  bool (*pays)() = [] { return true; };  // whether it is faster than those before it
};

#if defined(FUSED_RNN_HAVE_AVX2)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_vnni() { return has_avx512() && has_int8_dot(64); }
#endif

// A new instruction set is a line here, a file under isa/ and its flags in build_support/toolchain.py.
constexpr Entry kEntries[] = {
#if defined(FUSED_RNN_HAVE_NEON)
    {"neon", [] { return true; }, neon::unit},
    {"neon_dot", [] { return has_int8_dot(16); }, neon::unit_with_dot},
    {"neon_bf16", [] { return has_int8_dot(16) && has_bfloat16_dot(); }, neon::unit_with_bf16},
#else
    {"baseline", [] { return true; }, baseline::unit},
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
    {"avx2", has_avx2, avx2::unit},
    {"avx2_vnni", [] { return has_avx2() && has_int8_dot(32); }, avx2::unit_with_vnni},
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
    {"avx512", has_avx512, avx512::unit},
    {"avx512_vnni", has_avx512_vnni, avx512::unit_with_vnni},
    // vdpbf16ps starts in each cycle of an EPYC (Zen 4), as its FMA does. On a Xeon (Granite Rapids) it starts in every
    // second one, where two FMAs start in each: pairs take 1.2 to 1.4 times as long as float32 (2026-11-30).
    {"avx512_bf16", [] { return has_avx512_vnni() && has_bfloat16_dot(); }, avx512::unit_with_bf16, is_amd_processor},
#endif
};

const Entry& choose() {
  const char* wanted = std::getenv("FUSED_RNN_CPU_ISA");
  const Entry* best = nullptr;
  std::string known;
  for (const Entry& entry : kEntries) {
    if (!entry.runs_here()) continue;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
    if (wanted == nullptr || *wanted == 0 ? entry.pays() : std::string(wanted) == entry.name) best = &entry;
  }
  if (best == nullptr) {
    throw std::invalid_argument("FUSED_RNN_CPU_ISA must be one of " + known + " on this machine, got \"" + wanted +
                                "\"");
  }
  return *best;
}

const Entry& active() {
  static const Entry& entry = choose();
  return entry;
}

}  // namespace

std::vector<std::string> cpu_instruction_sets() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) {
    if (entry.runs_here()) names.emplace_back(entry.name);
  }
  return names;
}

const std::string& active_cpu_instruction_set() {
  static const std::string name = active().name;
  return name;
}

const std::string& active_cpu_isa() {
  static const std::string name = active_cpu_instruction_set().substr(0, active_cpu_instruction_set().find('_'));
  return name;
}

const CpuUnit& active_cpu_unit() {
  static const CpuUnit& unit = active().unit();
  return unit;
}

}  // namespace fused_rnn
