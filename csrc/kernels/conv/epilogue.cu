// The formulas and bytes of epilogue.h in one launch; where the bias has a gradient, a second one adds the tiles'
// sums in order. A thread keeps its columns, and with them the bias, in registers. It sums in float over at most
// ChannelTiles::kMostPacks values of a column, everything else is summed in double.
#include "kernels/conv/epilogue.h"

#include "kernels/cuda/channels.cuh"

namespace sdgan {
namespace cuda {
namespace {

// Whether each piece is part of one line, and so contiguous on the windowed side too, from s.windowed(piece.i) on.
SDGAN_DEVICE bool in_a_line(const ConvEpilogueShape& s) { return s.channels_last && s.channels > 1; }

// Offsets on the windowed side: next() gives that of element i of the dense side, then those of the elements after it.
struct Window {
  const ConvEpilogueShape& s;
  int64_t plane, line, column;
  SDGAN_DEVICE Window(const ConvEpilogueShape& shape, int64_t i) : s(shape) {
    line = i / s.length;
    column = i - line * s.length;
    plane = line / s.lines;
    line -= plane * s.lines;
  }
  SDGAN_DEVICE int64_t next() {
    const int64_t at = plane * s.plane_stride + line * s.line_stride + column;
    ++column;
    if (column == s.length) {
      column = 0;
      ++line;
      if (line == s.lines) {
        line = 0;
        ++plane;
      }
    }
    return at;
  }
};

template <class S, int n>
SDGAN_DEVICE void read_window(const ConvEpilogueShape& s, const void* p, const Piece (&piece)[n], Pack<S> (&x)[n]) {
  if (s.dense()) {
    read<S>(piece, p, x);
  } else if (in_a_line(s)) {
    Piece windowed[n];
    PRAGMA_UNROLL
    for (int i = 0; i < n; ++i) windowed[i] = {s.windowed(piece[i].i), piece[i].count};
    read<S>(windowed, p, x);
  } else {
    PRAGMA_UNROLL
    for (int i = 0; i < n; ++i) {
      Window window(s, piece[i].i);
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) {
        const int64_t at = window.next();
        x[i][j] = j < piece[i].count ? load_one<S>(p, at) : compute_t<S>(0);
      }
    }
  }
}

template <class S>
SDGAN_DEVICE void write_window(const ConvEpilogueShape& s, void* p, Piece at, const Pack<S>& pack) {
  if (p == nullptr) return;
  if (s.dense()) return write<S>(p, at, pack);
  if (in_a_line(s)) return write<S>(p, Piece{s.windowed(at.i), at.count}, pack);
  Window window(s, at.i);
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    const int64_t to = window.next();
    if (j < at.count) store_one<S>(p, to, pack[j]);
  }
}

template <class S, bool residual_or_scale>
__global__ void __launch_bounds__(kThreads) conv_epilogue_kernel(ConvEpilogueParams p, ChannelTiles t) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
  const T negative_slope = static_cast<T>(p.negative_slope), scale = static_cast<T>(p.output_scale);
  Walk<S> walk(t);
  T bias[kPack<S>];
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    const int64_t column = t.in_rows ? walk.column() + j : walk.column();
    bias[j] = p.bias != nullptr && column < t.columns() ? load_one<S>(p.bias, t.channel_of(column)) : T(0);
  }
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> a[kBatch], residual[kBatch] = {};
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    read_window<S>(p.shape, p.input, piece, a);
    if (residual_or_scale && p.residual != nullptr) read<S>(piece, p.residual, residual);
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) {
        a[i][j] += bias[j];
        if constexpr (residual_or_scale) a[i][j] = (a[i][j] + residual[i][j]) * scale;
      }
      write<S>(p.preactivation, piece[i], a[i]);
    }
    dispatch_activation(p.activation, [&](auto activation) {
      constexpr Activation act = decltype(activation)::value;
      PRAGMA_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        PRAGMA_UNROLL
        for (int j = 0; j < kPack<S>; ++j) a[i][j] = activate<Math>(act, a[i][j], negative_slope);
      }
    });
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) write<S>(p.output, piece[i], a[i]);
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    conv_epilogue_backward_kernel(ConvEpilogueBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
  const T negative_slope = static_cast<T>(p.negative_slope);
  Walk<S> walk(t);
  T sum[kPack<S>] = {};
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> g[kBatch], saved[kBatch] = {};
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    if (p.activation != Activation::none) {
      read<S>(piece, p.grad_output, g, p.saved, saved);
    } else {
      read<S>(piece, p.grad_output, g);
    }
    dispatch_activation(p.activation, [&](auto activation) {
      constexpr Activation act = decltype(activation)::value;
      if constexpr (act != Activation::none) {
        PRAGMA_UNROLL
        for (int i = 0; i < kBatch; ++i) {
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) g[i][j] *= activation_gradient<Math>(act, saved[i][j], negative_slope);
        }
      }
    });
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      write_window<S>(p.shape, p.grad_preactivation, piece[i], g[i]);
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) {
        if (j < piece[i].count) sum[j] += g[i][j];
      }
    }
  }
  if (p.partial == nullptr) return;
  double v[1][kPack<S>];
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) v[0][j] = static_cast<double>(sum[j]);
  sum_tile<S, 1>(t, v, [&](int, int column, double sum_of_tile) {
    if (walk.tile_column() + column < t.columns()) {
      p.partial[walk.down() * t.columns() + walk.tile_column() + column] = sum_of_tile;
    }
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads) conv_bias_gradient_kernel(ColumnSums from, void* grad_bias) {
  add_all_blocks(from, 1,
                 [&](int64_t, int64_t c, double sum) { store_one<S>(grad_bias, c, static_cast<compute_t<S>>(sum)); });
}

}  // namespace
}  // namespace cuda

CudaError launch_conv_epilogue(const ConvEpilogueParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.shape.cuda_tiles(p.dtype);
    const bool plain = p.residual == nullptr && p.output_scale == 1;  // in fewer registers
    const auto kernel = plain ? cuda::conv_epilogue_kernel<S, false> : cuda::conv_epilogue_kernel<S, true>;
    return cuda::launch(kernel, cuda::grid_of(t.count()), cuda::kThreads, 0, stream, p, t);
  });
}

CudaError launch_conv_epilogue_backward(const ConvEpilogueBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.shape.cuda_tiles(p.dtype);
    const CudaError error =
        cuda::launch(cuda::conv_epilogue_backward_kernel<S>, cuda::grid_of(t.count()), cuda::kThreads, 0, stream, p, t);
    if (error != 0 || p.partial == nullptr) return error;
    const cuda::ColumnSums sums{p.partial, t.tiles_down, t.channels, t.repeat};
    return static_cast<CudaError>(cuda::launch(cuda::conv_bias_gradient_kernel<S>, cuda::add_all_grid(t, 1),
                                               cuda::kThreads, 0, stream, sums, p.grad_bias));
  });
}

}  // namespace sdgan
