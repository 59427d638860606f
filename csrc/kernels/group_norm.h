// Group normalisation with its activation (Wu & He 2018, equations 1 to 7):
//
//   y = act(z),   z = (x - mean) * rstd * weight + bias,   rstd = 1 / sqrt(var + eps)
//
// mean and var (biased) are those of a group of one image: C / G neighbouring channels, n = C / G * L values. With
// g = dL/dy * act'(z), s = sum g and t = sum g (x - mean) over one channel of one image,
//
//   dL/dbias = sum_images s      dL/dweight = sum_images t rstd      A = sum_group weight s      B = sum_group weight t
//   dL/dx = weight rstd g - [rstd A + rstd^3 (x - mean) B] / n
//
// z is recomputed from x in the backward pass: nothing but x, mean and rstd is saved, for any activation.
#pragma once

#include "kernels/activation.h"
#include "kernels/channel_tiles.h"
#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

// The input in memory: [N, C, L] in planes, where a group of an image is contiguous, or [N, L, C] in rows (channels
// last). Vectors hold the compute type of dtype: float for bf16. Nothing is empty; G divides C.
struct GroupNormShape {
  int64_t batch = 0;     // N
  int64_t channels = 0;  // C
  int64_t groups = 0;    // G
  int64_t length = 0;    // L, the product of the sizes behind the channels
  bool in_rows = false;
  double eps = 0;
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;

  const void* input = nullptr;   // [N, C, L] or [N, L, C]
  const void* weight = nullptr;  // [C], or null for 1
  const void* bias = nullptr;    // [C], or null for 0
  const void* mean = nullptr;    // [N, G]
  const void* rstd = nullptr;    // [N, G]
  double* partial = nullptr;     // scratch: [partial_count()] of the params, on CUDA [cuda_partial_count()]
  double* factors = nullptr;     // [factor_count()] scratch; not on CUDA

  static constexpr int64_t kBlock = 32768;   // elements of a block of rows, about
  static constexpr int64_t kMostRows = 256;  // of a block: what is summed in float is short
  static constexpr int64_t kLeastRows = 16;
  static constexpr int64_t kPlaneBlock = 4096;  // elements of a block of planes
  static constexpr int64_t kFactorPad = 16;     // vectors reach behind the columns

  SDGAN_HD int64_t group_channels() const { return channels / groups; }
  SDGAN_HD int64_t group_size() const { return group_channels() * length; }  // n
  SDGAN_HD int64_t all_groups() const { return batch * groups; }
  int64_t block_rows() const {
    const int64_t rows = kBlock / channels;
    return rows < kLeastRows ? kLeastRows : rows > kMostRows ? kMostRows : rows;
  }
  int64_t row_blocks() const { return (length + block_rows() - 1) / block_rows(); }

  // In rows [N, 5, C + kFactorPad] of the compute type: what a column multiplies by. In planes [N, G, 2].
  int64_t factor_count() const { return batch * (in_rows ? 5 * (channels + kFactorPad) : 2 * groups); }

  // Slices of the elementwise pass: blocks of rows, or planes.
  int64_t map_slices() const { return batch * (in_rows ? row_blocks() : channels); }

  // CUDA: the tiles of one image; there are N times as many.
  ChannelTiles cuda_tiles() const { return channel_tiles(dtype, 1, channels, length, 1, in_rows); }
};

struct GroupNormParams : GroupNormShape {
  void* output = nullptr;    // as input
  void* mean_out = nullptr;  // [N, G]; mean and rstd point here too
  void* rstd_out = nullptr;  // [N, G]

  // Blocks whose sums a group is made of: blocks of rows, or kPlaneBlock elements. partial is [N, blocks(), G, 2].
  int64_t blocks() const { return in_rows ? row_blocks() : (group_size() + kPlaneBlock - 1) / kPlaneBlock; }
  int64_t partial_count() const { return all_groups() * blocks() * 2; }
  int64_t reduce_slices() const { return batch * blocks() * (in_rows ? 1 : groups); }
  int64_t cuda_partial_count() const { return batch * 2 * cuda_tiles().tiles_down * channels; }
};

struct GroupNormBackwardParams : GroupNormShape {
  const void* grad_output = nullptr;  // as input
  void* grad_input = nullptr;         // as input
  void* grad_weight = nullptr;        // [C] or null
  void* grad_bias = nullptr;          // [C] or null

  // partial is [N, blocks(), 2, C]: s and t.
  int64_t blocks() const { return in_rows ? row_blocks() : 1; }
  int64_t partial_count() const { return batch * blocks() * 2 * channels; }
  int64_t reduce_slices() const { return batch * (in_rows ? row_blocks() : channels); }
  // [N, 2, C] of every tile, then their sums, then [N, G, 2]
  int64_t cuda_partial_count() const { return batch * 2 * ((cuda_tiles().tiles_down + 1) * channels + groups); }
};

// In this order: reduce slices, finish (of N * G groups), map slices; each slice of reduce and map belongs to one
// image, in planes to one group, and images or groups may go through all three one after another, while they are in
// cache.
SDGAN_CPU_KERNEL(group_norm_reduce, const GroupNormParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(group_norm_finish, const GroupNormParams& p, int64_t group_begin, int64_t group_end)
SDGAN_CPU_KERNEL(group_norm_map, const GroupNormParams& p, int64_t slice_begin, int64_t slice_end)

// The same after prepare; at last the gradients of the vectors.
SDGAN_CPU_KERNEL(group_norm_backward_prepare, const GroupNormBackwardParams& p, int64_t group_begin, int64_t group_end)
SDGAN_CPU_KERNEL(group_norm_backward_reduce, const GroupNormBackwardParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(group_norm_backward_finish, const GroupNormBackwardParams& p, int64_t group_begin, int64_t group_end)
SDGAN_CPU_KERNEL(group_norm_backward_map, const GroupNormBackwardParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(group_norm_backward_vectors, const GroupNormBackwardParams& p, int64_t channel_begin,
                 int64_t channel_end)

// All passes.
SDGAN_CUDA_KERNEL(group_norm, GroupNormParams)
SDGAN_CUDA_KERNEL(group_norm_backward, GroupNormBackwardParams)

}  // namespace sdgan
