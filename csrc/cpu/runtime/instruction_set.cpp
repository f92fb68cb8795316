// The table of instruction sets and the choice among them.
#include "cpu/runtime/instruction_set.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#include "cpu/runtime/machine.h"
#include "cpu/runtime/processor.h"

namespace fused_rnn {

namespace {

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

// A new instruction set is a line here, a file under cpu/isa and under stream/isa, a line in the table of each
// dispatch.cpp, and its flags in build_support/toolchain.py.
constexpr InstructionSet kSets[] = {
#if defined(FUSED_RNN_HAVE_NEON)
    {"neon", [] { return true; }},
    {"neon_dot", [] { return has_int8_dot(16); }},
    {"neon_bf16", [] { return has_int8_dot(16) && has_bfloat16_dot(); }},
#else
    {"baseline", [] { return true; }},
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
    {"avx2", has_avx2},
    {"avx2_vnni", [] { return has_avx2() && has_int8_dot(32); }},
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
    {"avx512", has_avx512},
    {"avx512_vnni", has_avx512_vnni},
    // vdpbf16ps starts in each cycle of an EPYC (Zen 4), as its FMA does. On a Xeon (Granite Rapids) it starts in every
    // second one, where two FMAs start in each: pairs take 1.2 to 1.4 times as long as float32 (2026-11-30).
    {"avx512_bf16", [] { return has_avx512_vnni() && has_bfloat16_dot(); }, is_amd_processor},
#endif
};
static_assert(std::size(kSets) == kInstructionSets);

int choose() {
  const char* wanted = std::getenv("FUSED_RNN_CPU_ISA");
  int best = -1;
  std::string known;
  for (int i = 0; i < kInstructionSets; ++i) {
    const InstructionSet& set = kSets[i];
    if (!set.runs_here()) continue;
    known += (known.empty() ? "" : ", ") + std::string(set.name);
    if (wanted == nullptr || *wanted == 0 ? set.pays() : std::string(wanted) == set.name) best = i;
  }
  if (best < 0) {
    throw std::invalid_argument("FUSED_RNN_CPU_ISA must be one of " + known + " on this machine, got \"" + wanted +
                                "\"");
  }
  return best;
}

}  // namespace

const InstructionSet& instruction_set(int index) { return kSets[index]; }

int active_instruction_set() {
  static const int active = choose();
  return active;
}

}  // namespace fused_rnn
