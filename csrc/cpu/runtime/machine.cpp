// The table of processors.
#include "cpu/runtime/machine.h"

namespace fused_rnn {

namespace {

// A barrier costs 370 to 500 cycles. The rest is a premium: where another process displaces one thread, each barrier
// takes some 90 us, and a gain of a fraction of a microsecond a step is not worth that.
//
// Columns as in Machine. A new processor is a new row: `python -m tools.perf_check --plans` shows what
// its numbers have to explain.
constexpr Machine kXeon{"Xeon (Cascade Lake)", 1.7, 1.6, 5.0, 0.75 * 1048576, 60, 55, 2500, 1500, 0};  // 2026-11-21
constexpr Machine kEpyc{"EPYC (Zen 4)", 0.93, 2.1, 3.5, 0.9 * 1048576, 60, 35, 7000, 900, 45};         // 2026-11-27

}  // namespace

bool is_amd_processor() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

const Machine& this_machine() {
  static const Machine& machine = is_amd_processor() ? kEpyc : kXeon;
  return machine;
}

}  // namespace fused_rnn
