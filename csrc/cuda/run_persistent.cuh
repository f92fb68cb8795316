// From a plan to the launches of a persistent kernel.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/grid.cuh"
#include "cuda/norm_kernel.cuh"
#include "cuda/one_block.cuh"
#include "cuda/plan.h"
#include "cuda/scatter.cuh"
#include "cuda/small_block.cuh"
#include "cuda/small_lanes.cuh"
#include "cuda/small_tiles.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
LaunchShape launch_shape(const Plan& plan, int groups) {
  LaunchShape launch;
  launch.grid_x = static_cast<unsigned>(plan.shape.ranks);
  launch.grid_y = static_cast<unsigned>(groups);
  launch.threads = PersistentKernel<Pass, ExchangeOf>::kThreads;
  launch.shared_bytes = plan.shared_bytes;
  if (plan.schedule == Schedule::kCluster) launch.cluster = static_cast<unsigned>(plan.shape.ranks);
  launch.cooperative = plan.schedule == Schedule::kGrid;
  return launch;
}

// Calls visitor with the SmallBlockKernel of the plan's rows, with its arguments but for the views, and its launch.
template <class Pass, class Visitor>
auto visit_small_kernel(const Plan& plan, Visitor&& visitor) {
  const SmallShape& shape = plan.small;
  const LaunchShape launch{.grid_x = static_cast<unsigned>(plan.groups),
                           .threads = static_cast<unsigned>(shape.threads()),
                           .shared_bytes = plan.shared_bytes};
  const auto visit = [&](auto gemm) {
    SmallBlockKernel<Pass, decltype(gemm)> kernel;
    kernel.set_shape(shape);
    return visitor(kernel, launch);
  };
  // has_small_rows says which there are.
  constexpr bool kEveryRows = !kWithNorms<Pass>;
  if constexpr (std::is_same_v<typename Pass::T, float>) {
    if (shape.rows == 1) return visit(LaneGemm<Pass, 1>{});
    if constexpr (kEveryRows) {
      if (shape.rows == 2) return visit(LaneGemm<Pass, 2>{});
      if (shape.rows == 8) return visit(LaneGemm<Pass, 8>{});
    }
    return visit(LaneGemm<Pass, 4>{});
  } else {
    if constexpr (kEveryRows) {
      if (shape.rows > kTileRows) return visit(TileGemm<Pass, 2>{});
    }
    return visit(TileGemm<Pass, 1>{});
  }
}

// Calls visitor with a kernel of the plan's schedule, whose arguments are yet to be set.
template <template <class Pass, template <class T, int kVectors> class ExchangeOf> class KernelOf, class Pass,
          class Visitor>
auto visit_kernel_of(const Plan& plan, Visitor&& visitor) {
  switch (plan.schedule) {
    case Schedule::kOneBlock:
      return visitor(KernelOf<Pass, OneBlockExchange>{}, launch_shape<Pass, OneBlockExchange>);
    case Schedule::kCluster:
      if constexpr (kScatters<Pass> && !kWithNorms<Pass>) {
        if (plan.shape.scatters) return visitor(ScatterKernel<Pass>{}, launch_shape<Pass, ClusterExchange>);
      }
      return visitor(KernelOf<Pass, ClusterExchange>{}, launch_shape<Pass, ClusterExchange>);
    default:
      return visitor(KernelOf<Pass, GridExchange>{}, launch_shape<Pass, GridExchange>);
  }
}
// Likewise; with layer norms a NormKernel.
template <class Pass, class Visitor>
auto visit_kernel(const Plan& plan, Visitor&& visitor) {
  if constexpr (kWithNorms<Pass>) {
    return visit_kernel_of<NormKernel, Pass>(plan, visitor);
  } else {
    return visit_kernel_of<PersistentKernel, Pass>(plan, visitor);
  }
}

// What backward with layer norms needs of forward: in the workspace, by a kernel of its own.
template <class Pass, class Kernel>
void make_norm_moments(const Plan& plan, void* workspace, Stream stream, Kernel& kernel) {
  const PersistentShape& s = plan.shape;
  kernel.directions = plan.groups / s.row_groups;
  kernel.moments = reinterpret_cast<NormMoments<float>*>(static_cast<unsigned char*>(workspace) + plan.workspace_bytes);
  if (s.time_steps == 0) return;
  using Moments = NormMomentsKernel<Pass>;
  constexpr int kRows = Moments::kThreads / kWarpLanes;
  launch(Moments{kernel.views, const_cast<NormMoments<float>*>(kernel.moments), s.time_steps, s.batch, s.hidden_size,
                 kernel.directions, s.heads},
         {.grid_x = static_cast<unsigned>((s.batch + kRows - 1) / kRows),
          .grid_y = static_cast<unsigned>(kernel.directions),
          .grid_z = static_cast<unsigned>(s.time_steps < Moments::kTimes ? s.time_steps : Moments::kTimes),
          .threads = Moments::kThreads},
         stream);
}

template <class Pass>
void run_persistent(const Plan& plan, const typename Pass::Views& views, void* workspace, Stream stream) {
  if (plan.schedule == Schedule::kSmallBlock) {
    return visit_small_kernel<Pass>(plan, [&](auto kernel, const LaunchShape& shape) {
      kernel.views = views;
      launch(kernel, shape, stream);
    });
  }
  const int barriers = plan.groups_at_once * (kWithNorms<Pass> ? 1 + kNormMeetings : 1);
  visit_kernel<Pass>(plan, [&](auto kernel, auto shape_of) {
    kernel.set_shape(plan.shape);
    kernel.views = views;
    if constexpr (kWithNorms<Pass> && Pass::kBackward) make_norm_moments<Pass>(plan, workspace, stream, kernel);
    if constexpr (requires { kernel.global.barriers; }) {
      // Barriers of each group, then the vectors of all groups; with norms, pairs before these.
      kernel.global.barriers = static_cast<BlockBarrier*>(workspace);
      kernel.global.vectors = kernel.global.barriers + barriers;
      if constexpr (kWithNorms<Pass>) {
        kernel.met_in.barriers = kernel.global.barriers + plan.groups_at_once;
        kernel.met_in.pairs = static_cast<NormPair*>(kernel.global.vectors);
        constexpr int kNorms = norms(spec_of<typename Pass::Cell>(0));
        kernel.global.vectors =
            kernel.met_in.pairs + plan.groups_at_once * norm_pairs_bytes(plan.shape, kNorms) / sizeof(NormPair);
      }
    }
    for (int first = 0; first < plan.groups; first += plan.groups_at_once) {
      kernel.shape.first_group = first;
      if constexpr (requires { kernel.global.barriers; }) {
        clear(workspace, barriers * sizeof(BlockBarrier), stream);
      }
      const int left = plan.groups - first;
      launch(kernel, shape_of(plan, left < plan.groups_at_once ? left : plan.groups_at_once), stream);
    }
  });
}

// How many groups of the plan's blocks the current device can hold at once.
template <class Pass>
int resident_groups(const Plan& plan) {
  if (plan.schedule == Schedule::kSmallBlock) {
    return visit_small_kernel<Pass>(
        plan, [](auto kernel, const LaunchShape& shape) { return active_blocks<decltype(kernel)>(shape); });
  }
  return visit_kernel<Pass>(plan, [&](auto kernel, auto shape_of) {
    using Kernel = decltype(kernel);
    const LaunchShape shape = shape_of(plan, 1);
    return plan.schedule == Schedule::kCluster ? active_clusters<Kernel>(shape)
                                               : active_blocks<Kernel>(shape) / plan.shape.ranks;
  });
}

}  // namespace fused_rnn::cuda
