// The op torch.ops.fused_rnn.zoneout_mask: what zoneout keeps, drawn from a seed (cpu/zoneout_mask.h).
#include <torch/csrc/stable/library.h>

#include "binding/allocator.h"
#include "cpu/zoneout_mask.h"

namespace fused_rnn {

namespace {

void check_size(int64_t size, const char* name) {
  if (size < 0) fail(std::string(name) + " must be 0 or more, got " + std::to_string(size));
}

void check_probability(double probability, const char* name) {
  if (!(probability >= 0.0 && probability <= 1.0))
    fail(std::string(name) + " must be in [0, 1], got " + std::to_string(probability));
}

// [T, B, D, states, H], for x [T, B, I] and in its type.
Tensor zoneout_mask(const Tensor& x, const Tensor& seed, int64_t directions, int64_t states, int64_t units, double of_h,
                    double of_others) {
  const Checker check(x, "x");
  if (x.dim() != 3) fail("x must have shape [T, B, I], got " + to_string(shape_of(x)));
  check.typed(seed, "seed", "[]", {}, torch::headeronly::ScalarType::Long, "int64");
  check_size(directions, "directions");
  check_size(states, "states");
  check_size(units, "units");
  check_probability(of_h, "of_h");
  check_probability(of_others, "of_others");
  const int64_t rows = x.size(0) * x.size(1) * directions;
  const Tensor result = Allocator(x)(true, {x.size(0), x.size(1), directions, states, units});
  const ZoneoutMask mask{check.type(), rows, states, units, of_h, of_others};
  const auto bits = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
  if (result.numel() > 0) draw_zoneout_mask(mask, bits, result.mutable_data_ptr());
  return result;
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "zoneout_mask(Tensor x, Tensor seed, int directions, int states, int units, float of_h, float of_others) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) { m.impl("zoneout_mask", TORCH_BOX(&fused_rnn::zoneout_mask)); }
