// Batch normalisation with its activation (Ioffe & Szegedy 2015, algorithms 1 and 2):
//
//   y = act(z),   z = (x - mean) * weight / sqrt(var + eps) + bias,   per channel
//
// mean and var (biased) are those of the batch, or given ones. With g = dL/dy * act'(z) and n values a channel,
//
//   dL/dbias = sum g      dL/dweight = sum g (x - mean) / sqrt(var + eps)      s = weight / sqrt(var + eps)
//   dL/dx = s * (g - [dL/dbias + (x - mean) / sqrt(var + eps) * dL/dweight] / n), without [...] when var was given
//
// z is recomputed from x in the backward pass: nothing but x is saved, for any activation.
#pragma once

#include "kernels/activation.h"
#include "kernels/channel_tiles.h"
#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

// The input is read in memory order in one of two ways:
//   rows    [rows(), columns()]: a column is a channel when channels are last. Where planes are smaller than a vector,
//           a column is one position of one channel and `repeat` neighbouring columns make a channel.
//   planes  [N, C, L], channel by channel
// Vectors of C hold the compute type of dtype: float for bf16. Nothing is empty.
struct BatchNormShape {
  int64_t batch = 0;     // N
  int64_t channels = 0;  // C
  int64_t length = 0;    // L, the product of the sizes behind the channels
  int64_t repeat = 1;
  bool in_rows = false;
  double eps = 0;
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;

  const void* input = nullptr;   // [N, C, L] in planes, else [rows(), columns()]
  const void* weight = nullptr;  // [C], or null for 1
  const void* bias = nullptr;    // [C], or null for 0
  const void* mean = nullptr;    // [C]
  const void* var = nullptr;     // [C]
  double* partial = nullptr;     // [partial_count(), 2, columns()] scratch: two sums of a block. CUDA:
                                 // [cuda_partial_count()], null where nothing is summed
  double* factors = nullptr;     // [5, columns() + kFactorPad] scratch, of the compute type; not on CUDA

  static constexpr int64_t kRows = 64;           // rows of a block
  static constexpr int64_t kBlockColumns = 128;  // columns of a block
  static constexpr int64_t kFactorPad = 16;      // factors repeat behind the columns: a vector begins at any of them
  static constexpr int64_t kSmallPlane = 16;     // planes of fewer values are read as rows

  SDGAN_HD int64_t count() const { return batch * length; }  // n
  int64_t columns() const { return channels * repeat; }
  int64_t rows() const { return count() / repeat; }
  int64_t row_blocks() const { return (rows() + kRows - 1) / kRows; }
  int64_t column_blocks() const { return (columns() + kBlockColumns - 1) / kBlockColumns; }
  int64_t partial_count() const { return in_rows ? row_blocks() : 1; }

  // Slices of the reduction: blocks of rows and columns, or channels.
  int64_t reduce_slices() const { return in_rows ? row_blocks() * column_blocks() : channels; }
  // Slices of the elementwise pass: kSlice elements in memory order, or channels.
  int64_t map_slices() const { return in_rows ? slices(rows() * columns()) : channels; }

  ChannelTiles cuda_tiles() const { return channel_tiles(dtype, batch, channels, length, repeat, in_rows); }
  int64_t cuda_partial_count() const { return cuda_tiles().partial_count(2); }
};

struct BatchNormParams : BatchNormShape {
  const void* given_mean = nullptr;  // [C], or null: the statistics are those of the batch
  const void* given_var = nullptr;   // [C]
  void* mean_out = nullptr;          // [C] the statistics in use; mean and var point here too
  void* var_out = nullptr;           // [C]
  void* output = nullptr;            // as input
};

struct BatchNormBackwardParams : BatchNormShape {
  const void* grad_output = nullptr;  // as input
  void* grad_input = nullptr;         // as input
  void* grad_weight = nullptr;        // [C] or null
  void* grad_bias = nullptr;          // [C] or null
  bool training = true;               // mean and var depend on the input
};

// In this order: reduce slices, finish (channels; in rows all at once), map slices. In planes the three may run channel
// by channel, while the channel is in cache.
SDGAN_CPU_KERNEL(batch_norm_reduce, const BatchNormParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(batch_norm_finish, const BatchNormParams& p, int64_t channel_begin, int64_t channel_end)
SDGAN_CPU_KERNEL(batch_norm_map, const BatchNormParams& p, int64_t slice_begin, int64_t slice_end)

// The same, after prepare.
SDGAN_CPU_KERNEL(batch_norm_backward_prepare, const BatchNormBackwardParams& p)
SDGAN_CPU_KERNEL(batch_norm_backward_reduce, const BatchNormBackwardParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(batch_norm_backward_finish, const BatchNormBackwardParams& p, int64_t channel_begin,
                 int64_t channel_end)
SDGAN_CPU_KERNEL(batch_norm_backward_map, const BatchNormBackwardParams& p, int64_t slice_begin, int64_t slice_end)

// All passes.
SDGAN_CUDA_KERNEL(batch_norm, BatchNormParams)
SDGAN_CUDA_KERNEL(batch_norm_backward, BatchNormBackwardParams)

}  // namespace sdgan
