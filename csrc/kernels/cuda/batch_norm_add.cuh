// The launch of batch norm between sums and map, where a channel has many partial sums.
#pragma once

#include "kernels/cuda/channels.cuh"

namespace sdgan::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) batch_norm_add_kernel(ColumnSums from, double* totals) {
  add_all_blocks(from, 2, [&](int64_t k, int64_t c, double sum) { totals[k * from.channels + c] = sum; });
}

// Where a channel has many partial sums, adds them and lets `sums` be the totals [2, C].
inline CudaError add_first(const ChannelTiles& t, ColumnSums& sums, double* partial, CudaStream stream) {
  if (!t.adds_first()) return 0;
  double* totals = partial + 2 * t.tiles_down * t.columns();
  const CudaError error = launch(batch_norm_add_kernel, add_all_grid(t, 2), kThreads, 0, stream, sums, totals);
  sums = {totals, 1, t.channels, 1};
  return error;
}

}  // namespace
}  // namespace sdgan::cuda
