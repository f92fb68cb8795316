// The table of the units of streams.
#include <iterator>

#include "cpu/runtime/instruction_set.h"
#include "stream/stage.h"

namespace fused_rnn {

#if defined(FUSED_RNN_HAVE_NEON)
namespace neon {
const StreamUnit& stream_unit();
const StreamUnit& stream_unit_with_dot();
}  // namespace neon
#else
namespace baseline {
const StreamUnit& stream_unit();
}
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
namespace avx2 {
const StreamUnit& stream_unit();
const StreamUnit& stream_unit_with_dot();
}  // namespace avx2
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
namespace avx512 {
const StreamUnit& stream_unit();
const StreamUnit& stream_unit_with_dot();
}  // namespace avx512
#endif

namespace {

// In the order of instruction_set.cpp. Products of bfloat16 in pairs make no steps.
constexpr const StreamUnit& (*kUnits[])() = {
#if defined(FUSED_RNN_HAVE_NEON)
    neon::stream_unit,   neon::stream_unit_with_dot,   neon::stream_unit_with_dot,
#else
    baseline::stream_unit,
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
    avx2::stream_unit,   avx2::stream_unit_with_dot,
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
    avx512::stream_unit, avx512::stream_unit_with_dot, avx512::stream_unit_with_dot,
#endif
};
static_assert(std::size(kUnits) == kInstructionSets);

}  // namespace

const StreamUnit& active_stream_unit() { return kUnits[active_instruction_set()](); }

}  // namespace fused_rnn
