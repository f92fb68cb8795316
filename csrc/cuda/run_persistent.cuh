// From an option to the launches of a persistent kernel.
#pragma once

#include <algorithm>

#include "cuda/cluster.cuh"
#include "cuda/grid.cuh"
#include "cuda/one_block.cuh"
#include "cuda/schedule.h"
#include "cuda/small_block.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
LaunchShape launch_shape(const Option& option, int groups) {
  LaunchShape launch;
  launch.grid_x = static_cast<unsigned>(option.shape.ranks);
  launch.grid_y = static_cast<unsigned>(groups);
  launch.threads = PersistentKernel<Pass, ExchangeOf>::kThreads;
  launch.shared_bytes = option.shared_bytes;
  if (option.schedule == Schedule::kCluster) launch.cluster = static_cast<unsigned>(option.shape.ranks);
  launch.cooperative = option.schedule == Schedule::kGrid;
  return launch;
}

// Calls visitor with the SmallBlockKernel of the option's rows, with its arguments but for the views, and its launch.
template <class Pass, class Visitor>
auto visit_small_kernel(const Option& option, Visitor&& visitor) {
  const SmallShape& shape = option.small;
  const LaunchShape launch{.grid_x = static_cast<unsigned>(option.groups),
                           .threads = static_cast<unsigned>(shape.threads()),
                           .shared_bytes = option.shared_bytes};
  const auto visit = [&](auto kernel) {
    kernel.set_shape(shape);
    return visitor(kernel, launch);
  };
  if (shape.rows == 1) return visit(SmallBlockKernel<Pass, 1>{});
  return visit(SmallBlockKernel<Pass, kMostSmallRows>{});
}

// Calls visitor with a PersistentKernel of the option's schedule, whose arguments are yet to be set.
template <class Pass, class Visitor>
auto visit_kernel(const Option& option, Visitor&& visitor) {
  switch (option.schedule) {
    case Schedule::kOneBlock:
      return visitor(PersistentKernel<Pass, OneBlockExchange>{}, launch_shape<Pass, OneBlockExchange>);
    case Schedule::kCluster:
      return visitor(PersistentKernel<Pass, ClusterExchange>{}, launch_shape<Pass, ClusterExchange>);
    default:
      return visitor(PersistentKernel<Pass, GridExchange>{}, launch_shape<Pass, GridExchange>);
  }
}

template <class Pass>
void run_persistent(const Option& option, const typename Pass::Views& views, void* workspace, Stream stream) {
  if (option.schedule == Schedule::kSmallBlock) {
    return visit_small_kernel<Pass>(option, [&](auto kernel, const LaunchShape& shape) {
      kernel.views = views;
      launch(kernel, shape, stream);
    });
  }
  visit_kernel<Pass>(option, [&](auto kernel, auto shape_of) {
    kernel.set_shape(option.shape);
    kernel.views = views;
    if constexpr (requires { kernel.global.barriers; }) {
      // One barrier for each group, then the vectors of all groups.
      kernel.global.barriers = static_cast<BlockBarrier*>(workspace);
      kernel.global.vectors = kernel.global.barriers + option.groups_at_once;
    }
    for (int first = 0; first < option.groups; first += option.groups_at_once) {
      kernel.shape.first_group = first;
      if constexpr (requires { kernel.global.barriers; }) {
        clear(workspace, option.groups_at_once * sizeof(BlockBarrier), stream);
      }
      launch(kernel, shape_of(option, std::min(option.groups_at_once, option.groups - first)), stream);
    }
  });
}

// How many groups of the option's blocks the current device can hold at once.
template <class Pass>
int resident_groups(const Option& option) {
  if (option.schedule == Schedule::kSmallBlock) {
    return visit_small_kernel<Pass>(
        option, [](auto kernel, const LaunchShape& shape) { return active_blocks<decltype(kernel)>(shape); });
  }
  return visit_kernel<Pass>(option, [&](auto kernel, auto shape_of) {
    using Kernel = decltype(kernel);
    const LaunchShape shape = shape_of(option, 1);
    return option.schedule == Schedule::kCluster ? active_clusters<Kernel>(shape)
                                                 : active_blocks<Kernel>(shape) / option.shape.ranks;
  });
}

}  // namespace fused_rnn::cuda
