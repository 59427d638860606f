// What the kernels of batch norm and group norm share: a column's affine map, and their passes over a tile.
#pragma once

#include "kernels/cuda/channels.cuh"

namespace sdgan::cuda {
namespace {

constexpr int kAffineFactors = 3;  // mean, scale, bias: [kAffineFactors, kTileColumns]

// The first value of a column's channel.
template <class S>
SDGAN_DEVICE compute_t<S> first_of(const void* input, const ChannelTiles& t, int64_t column) {
  return load_one<S>(input, t.channel_of(column) * (t.in_rows ? t.repeat : t.length));
}

template <class T>
SDGAN_DEVICE T inverse_std(T var, double eps) {
  return T(1) / Math::sqrt(var + static_cast<T>(eps));
}

// The factors of column `at` of a tile, which is channel c of the norm p.
template <class T, class Shape>
SDGAN_DEVICE void set_affine(const Shape& p, const Smem<T>& factors, int at, bool exists, int64_t c, T mean, T rstd) {
  const T weight = exists && p.weight != nullptr ? load_one<T>(p.weight, c) : T(1);
  factors[at] = mean;
  factors[kTileColumns + at] = exists ? weight * rstd : T(0);
  factors[2 * kTileColumns + at] = exists && p.bias != nullptr ? load_one<T>(p.bias, c) : T(0);
}

// z of the thread's lanes.
template <class S>
struct Affine {
  using T = compute_t<S>;
  T mean[kPack<S>], scale[kPack<S>], bias[kPack<S>];
  SDGAN_DEVICE Affine(const ChannelTiles& t, const Smem<T>& factors) {
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      const int at = tile_lane(t, j);
      mean[j] = factors[at];
      scale[j] = factors[kTileColumns + at];
      bias[j] = factors[2 * kTileColumns + at];
    }
  }
  SDGAN_DEVICE T operator()(T x, int j) const { return (x - mean[j]) * scale[j] + bias[j]; }
};

// A and B of the thread's columns, see batch_norm.cu.
template <class S>
SDGAN_DEVICE void shifted_sums(Walk<S>& walk, const void* input, const ChannelTiles& t, double (&v)[2][kPack<S>]) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 4 : 8;  // pieces in flight
  T center[kPack<S>], rest[kPack<S>], squares[kPack<S>];
  int64_t pieces = 0, tails = 0;  // those of fewer elements than a pack have `tail`
  int tail = 0;
  for (bool first = true; !walk.done(); first = false) {
    Piece piece[kBatch];
    Pack<S> x[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      piece[i] = walk.next();
      pieces += piece[i].count == kPack<S>;
      if (piece[i].count > 0 && piece[i].count < kPack<S>) {
        ++tails;
        tail = piece[i].count;
      }
    }
    read<S>(piece, input, x);
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      if (first) {
        T sum = 0;  // lanes that hold nothing read as 0
        PRAGMA_UNROLL
        for (int i = 0; i < kBatch; ++i) sum += x[i][j];
        const int count = static_cast<int>(pieces + (j < tail ? tails : 0));
        center[j] = count > 0 ? sum / static_cast<T>(count) : T(0);
        rest[j] = squares[j] = 0;
      }
      PRAGMA_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const T d = j < piece[i].count ? x[i][j] - center[j] : T(0);
        rest[j] += d;
        squares[j] += d * d;
      }
    }
  }
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    const int64_t count = pieces + (j < tail ? tails : 0);
    if (count == 0) continue;
    const T pivot = first_of<S>(input, t, t.in_rows ? walk.column() + j : walk.column());
    const double shift = static_cast<double>(center[j]) - static_cast<double>(pivot);
    const double sum_d = static_cast<double>(rest[j]);
    v[0][j] = static_cast<double>(count) * shift + sum_d;
    v[1][j] = static_cast<double>(squares[j]) + shift * (v[0][j] + sum_d);
  }
}

template <class S, class Params>
SDGAN_DEVICE void normalize_tile(Walk<S>& walk, const Params& p, const void* input, void* output,
                                 const Affine<S>& affine) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
  const T negative_slope = static_cast<T>(p.negative_slope);
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> x[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    read<S>(piece, input, x);
    dispatch_activation(p.activation, [&](auto activation) {
      PRAGMA_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        PRAGMA_UNROLL
        for (int j = 0; j < kPack<S>; ++j) {
          x[i][j] = activate<Math>(decltype(activation)::value, affine(x[i][j], j), negative_slope);
        }
      }
    });
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) write<S>(output, piece[i], x[i]);
  }
}

// In place: dL/dz from dL/dy.
template <class S, int batch, class Params>
SDGAN_DEVICE void through_activation(const Params& p, const Affine<S>& affine, const Pack<S> (&x)[batch],
                                     Pack<S> (&grad)[batch]) {
  using T = compute_t<S>;
  const T negative_slope = static_cast<T>(p.negative_slope);
  dispatch_activation(p.activation, [&](auto activation) {
    constexpr Activation act = decltype(activation)::value;
    constexpr bool from_input = needs_input<act>;
    if constexpr (act != Activation::none) {
      PRAGMA_UNROLL
      for (int i = 0; i < batch; ++i) {
        PRAGMA_UNROLL
        for (int j = 0; j < kPack<S>; ++j) {
          const T z = affine(x[i][j], j);
          const T saved = from_input ? z : activate<Math>(act, z, negative_slope);
          grad[i][j] *= activation_gradient<Math>(act, saved, negative_slope);
        }
      }
    }
  });
}

// Sums of g and g (x - mean) of the thread's columns.
template <class S, class Params>
SDGAN_DEVICE void gradient_sums(Walk<S>& walk, const Params& p, const void* input, const void* grad_output,
                                const Affine<S>& affine, double (&v)[2][kPack<S>]) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
  T sum[kPack<S>] = {}, product[kPack<S>] = {};
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> x[kBatch], g[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    read<S>(piece, input, x, grad_output, g);
    through_activation<S, kBatch>(p, affine, x, g);
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) {
        if (j >= piece[i].count) continue;
        sum[j] += g[i][j];
        product[j] += g[i][j] * (x[i][j] - affine.mean[j]);
      }
    }
  }
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    v[0][j] = static_cast<double>(sum[j]);
    v[1][j] = static_cast<double>(product[j]);
  }
}

// dL/dx = scale g - [tilt (x - mean) + shift], where shifts and tilts are [kTileColumns].
template <class S, class Params>
SDGAN_DEVICE void gradient_tile(Walk<S>& walk, const Params& p, const ChannelTiles& t, const void* input,
                                const void* grad_output, void* grad_input, const Affine<S>& affine,
                                const Smem<compute_t<S>>& shifts, const Smem<compute_t<S>>& tilts) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
  T shift[kPack<S>], tilt[kPack<S>];
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    shift[j] = shifts[tile_lane(t, j)];
    tilt[j] = tilts[tile_lane(t, j)];
  }
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> x[kBatch], g[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    read<S>(piece, input, x, grad_output, g);
    through_activation<S, kBatch>(p, affine, x, g);
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) {
        g[i][j] = g[i][j] * affine.scale[j] - (tilt[j] * (x[i][j] - affine.mean[j]) + shift[j]);
      }
      write<S>(grad_input, piece[i], g[i]);
    }
  }
}

}  // namespace
}  // namespace sdgan::cuda
