// What few calls ask of a pass, compiled in together: rows that end and are reset, zoneout, where a part of the state
// before the step stays, and recurrent masks. Without them neither instructions nor registers are spent on them.
#pragma once

#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

enum class Features { kNone, kAll };

// Whether a pass without the features would do.
template <class Views>
bool needs_no_features(const Views& views) {
  return views.lengths == nullptr && views.resets.data == nullptr && !has(views.variant.zoneout) &&
         !has(views.variant.recurrent_mask);
}

template <Features kFeatures, class Views>
FUSED_RNN_DEVICE RowStep step_of(const Views& views, int64_t time, int row) {
  return kFeatures == Features::kNone ? RowStep::kPlain : row_step(views, time, row);
}

// That of loaded inputs; a compiler does not see that those of a pass without features have but one.
template <Features kFeatures, class Inputs>
FUSED_RNN_DEVICE RowStep kind_of(const Inputs& in) {
  return kFeatures == Features::kNone ? RowStep::kPlain : in.kind;
}

// Whether the row's state before this step is zero whatever was before.
template <Features kFeatures, class Views>
FUSED_RNN_DEVICE bool is_reset(const Views& views, int64_t time, int row) {
  return kFeatures == Features::kAll && has(views.resets) && row_step(views, time, row) == RowStep::kReset;
}

// h on its way into the GEMM with W_hh, or its gradient on the way back.
template <class T, class Index, class Views>
FUSED_RNN_DEVICE RealOf<T> masked(const Views& views, const Element& e, RealOf<T> h) {
  return has(views.variant.recurrent_mask) ? h * to_real(*element_at<T, Index>(views.variant.recurrent_mask, e)) : h;
}

// What the variants add to the inputs of a step; empty where no feature is compiled in.
template <class T, int kStates, Features kFeatures>
struct VariantInputs {
  Pack<T, kStates> stays;  // how much of each state before the step, with zoneout
  T mask;                  // of h, with a recurrent mask

  template <class Index, class Views>
  FUSED_RNN_DEVICE void load(const Views& views, const Element& e, Index time, int size) {
    if (has(views.variant.zoneout)) {
      const T* from = element_at<T, Index>(views.variant.zoneout, time, e);
      for (int s = 0; s < kStates; ++s) stays[s] = from[static_cast<Index>(s) * size];
    }
    if (has(views.variant.recurrent_mask)) mask = *element_at<T, Index>(views.variant.recurrent_mask, e);
  }
  template <class Views>
  FUSED_RNN_DEVICE RealOf<T> masked(const Views& views, RealOf<T> h) const {
    return has(views.variant.recurrent_mask) ? h * to_real(mask) : h;
  }
};
template <class T, int kStates>
struct VariantInputs<T, kStates, Features::kNone> {
  template <class Index, class Views>
  FUSED_RNN_DEVICE void load(const Views&, const Element&, Index, int) {}
  template <class Views>
  FUSED_RNN_DEVICE RealOf<T> masked(const Views&, RealOf<T> h) const {
    return h;
  }
};

// A pass whose persistent kernels have layer norms.
template <class Pass>
struct NormPass : Pass {};
template <class Pass>
inline constexpr bool kWithNorms = false;
template <class Pass>
inline constexpr bool kWithNorms<NormPass<Pass>> = true;

}  // namespace fused_rnn::cuda
