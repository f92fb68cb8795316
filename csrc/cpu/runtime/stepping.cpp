// What the layers of all instruction sets share: the place of their table of virtual functions.
#include "cpu/runtime/stepping.h"

namespace fused_rnn {

StepLayer::~StepLayer() = default;

}  // namespace fused_rnn
