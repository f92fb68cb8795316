// What the stages of all instruction sets share.
#include "stream/stage.h"

namespace fused_rnn {

Stage::~Stage() = default;

void Stage::take(const StepRows& /*x*/, int64_t /*count*/) {}

StageState Stage::state() const { return {}; }

}  // namespace fused_rnn
