// Statistics: a tile of the input is read twice while it is in cache, for its mean and for the squares about that mean
// (the corrected two-pass algorithm), and tiles are merged in order in double (Chan, Golub & LeVeque 1983, eqs. 1.5 and
// 1.7): accurate also where the mean is much larger than the standard deviation, the same for any number of threads.
// Bytes, per element and element size: forward 3 (x twice, y), backward 5 (x and dL/dy twice, dL/dx). In planes the
// second reading of a channel comes from cache.
#include "kernels/batch_norm.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/norm.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int64_t kInCache = 4096;  // elements of a tile, in planes

// -------------------------------------------------------------------------------------- what a channel multiplies by
enum Factor { kMean, kScale, kBias, kGradShift, kGradSlope };  // the rows of BatchNormShape::factors

template <class T>
SDGAN_INLINE T* factor(const BatchNormShape& p, Factor f) {
  return reinterpret_cast<T*>(p.factors) + f * (p.columns() + BatchNormShape::kFactorPad);
}

// The factors of one vector's lanes: of consecutive columns, or of one channel.
template <class T, bool in_rows>
struct Factors {
  const T* first;
  int64_t stride;
  SDGAN_INLINE Factors(const BatchNormShape& p, int64_t column)
      : first(factor<T>(p, Factor{}) + column), stride(p.columns() + BatchNormShape::kFactorPad) {}
  SDGAN_INLINE Vec<T> operator[](Factor f) const {
    const T* from = first + f * stride;
    if constexpr (in_rows) {
      return load(from);
    } else {
      return splat(*from);
    }
  }
};

template <class T>
struct Affine {
  Vec<T> mean, scale, bias;
  Affine() = default;
  template <class F>
  explicit SDGAN_INLINE Affine(const F& f) : mean(f[kMean]), scale(f[kScale]), bias(f[kBias]) {}
  SDGAN_INLINE Vec<T> operator()(Vec<T> x) const { return (x - mean) * scale + bias; }
};

template <class T>
SDGAN_INLINE double inverse_std(T var, double eps) {
  return 1 / std::sqrt(static_cast<double>(var) + eps);
}

// In rows: from a factor for each channel to one for each column, and on behind the columns.
template <class T>
void spread(const BatchNormShape& p, Factor f) {
  if (!p.in_rows) return;
  T* row = factor<T>(p, f);
  if (p.repeat > 1) {
    for (int64_t c = p.columns() - 1; c >= 0; --c) row[c] = row[c / p.repeat];
  }
  for (int64_t i = 0; i < BatchNormShape::kFactorPad; ++i) row[p.columns() + i] = row[i % p.columns()];
}

template <class T>
void set_affine(const BatchNormShape& p, int64_t begin, int64_t end) {
  const T* __restrict weight = static_cast<const T*>(p.weight);
  const T* __restrict var = static_cast<const T*>(p.var);
  T* __restrict scale = factor<T>(p, kScale);
  std::copy(static_cast<const T*>(p.mean) + begin, static_cast<const T*>(p.mean) + end, factor<T>(p, kMean) + begin);
  for (int64_t c = begin; c < end; ++c) scale[c] = static_cast<T>(inverse_std(var[c], p.eps));
  for (int64_t c = begin; c < end && weight; ++c) scale[c] *= weight[c];
  for (int64_t c = begin; c < end; ++c) factor<T>(p, kBias)[c] = p.bias ? static_cast<const T*>(p.bias)[c] : 0;
  for (Factor f : {kMean, kScale, kBias}) spread<T>(p, f);
}

// ------------------------------------------------------------------------------------------------- reduction
// A tile is the part of the input that one set of accumulators sums: kAccumulators vectors, for kVectors vectors of
// columns. It offers
//   for_each(body(j, i, count, keep))   the vectors of the tile, at element i, for accumulator j
//   each_column(body(c, j, lane))       its columns (its channel), and where in kVectors vectors they are
//   collect(sums)                       joins kAccumulators sums to kVectors

// Some planes of one channel, or a piece of one plane.
template <class S>
struct PlanesTile {
  using T = compute_t<S>;
  static constexpr int kAccumulators = kUnroll;
  static constexpr int kVectors = 1;
  static constexpr bool kInRows = false;
  const BatchNormShape& p;
  int64_t channel, batch_begin, batch_end, begin, end, seen;

  int64_t size() const { return (batch_end - batch_begin) * (end - begin); }
  int64_t first_column(int) const { return channel; }
  double* partial() const { return p.partial; }
  template <class Body>
  SDGAN_INLINE void for_each(Body body) const {
    for (int64_t n = batch_begin; n < batch_end; ++n) {
      const int64_t at = (n * p.channels + channel) * p.length + begin;
      for_contiguous<T>(end - begin,
                        [&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY { body(j, at + i, count, keep); });
    }
  }
  template <class Body>
  SDGAN_INLINE void each_column(Body body) const {
    body(channel, 0, 0);
  }
  SDGAN_INLINE void collect(Vec<T>* sums) const {
    sums[0] = splat(static_cast<T>(sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))));
  }
};

// A block of rows, for `vectors` vectors of columns. The last vector reaches back where the columns are no multiple of
// the lanes; with fewer columns than lanes it also holds what follows in memory, which nobody collects.
template <class S, int vectors>
struct RowsTile {
  using T = compute_t<S>;
  static constexpr int kAccumulators = vectors;
  static constexpr int kVectors = vectors;
  static constexpr bool kInRows = true;
  const BatchNormShape& p;
  int64_t block, row_begin, row_end, first, begin, end, seen = 0;

  int64_t size() const { return row_end - row_begin; }
  int64_t first_column(int j) const { return first + j * kLanes<T>; }
  double* partial() const { return p.partial + block * 2 * p.columns(); }
  template <class Body>
  SDGAN_INLINE void for_each(Body body) const {
    constexpr int lanes = kLanes<T>;
    const Mask<T> all = ~Mask<T>{};
    const int64_t columns = p.columns();
    const int64_t total = p.rows() * columns;
    int64_t i = row_begin * columns + first;
    const int64_t last = row_end * columns + first;
    for (; i < last && i + vectors * lanes <= total; i += columns) {
      unrolled<vectors>([&](auto j) SDGAN_BODY { body(j, i + j * lanes, lanes, all); });
    }
    if constexpr (vectors == 1) {  // with fewer columns than lanes, the last rows
      for (; i < last; i += columns) body(std::integral_constant<int, 0>{}, i, static_cast<int>(total - i), all);
    }
  }
  template <class Body>
  SDGAN_INLINE void each_column(Body body) const {
    for (int64_t c = begin; c < end; ++c) {
      const int at = static_cast<int>(c - first);
      body(c, at / kLanes<T>, at % kLanes<T>);
    }
  }
  SDGAN_INLINE void collect(Vec<T>*) const {}
};

// Calls visit(tile) for the tiles of a slice, in order.
template <class S, class Visit>
void for_tiles(const BatchNormShape& p, int64_t slice, Visit visit) {
  if (p.in_rows) {
    constexpr int lanes = kLanes<compute_t<S>>;
    const int64_t block = slice / p.column_blocks();
    const int64_t begin = slice % p.column_blocks() * BatchNormShape::kBlockColumns;
    const int64_t end = std::min(begin + BatchNormShape::kBlockColumns, p.columns());
    const int64_t row = block * BatchNormShape::kRows;
    const int64_t row_end = std::min(row + BatchNormShape::kRows, p.rows());
    int64_t c = begin;
    for (; c + kUnroll * lanes <= end; c += kUnroll * lanes) {
      visit(RowsTile<S, kUnroll>{p, block, row, row_end, c, c, c + kUnroll * lanes});
    }
    for (; c < end; c += lanes) {
      const int64_t first = std::max<int64_t>(0, std::min(c, p.columns() - lanes));
      visit(RowsTile<S, 1>{p, block, row, row_end, first, c, std::min(c + lanes, end)});
    }
  } else {
    const int64_t planes = std::max<int64_t>(1, kInCache / p.length);
    int64_t seen = 0;
    for (int64_t n = 0; n < p.batch; n += planes) {
      for (int64_t l = 0; l < p.length; l += kInCache) {
        const PlanesTile<S> tile{p, slice, n, std::min(n + planes, p.batch), l, std::min(l + kInCache, p.length), seen};
        visit(tile);
        seen += tile.size();
      }
    }
  }
}

template <class S, class Tile>
SDGAN_INLINE void tile_statistics(const BatchNormParams& p, const Tile& tile) {
  using T = compute_t<S>;
  const S* input = static_cast<const S*>(p.input);
  const double n = static_cast<double>(tile.size());
  Vec<T> sum[Tile::kAccumulators]{}, rest[Tile::kAccumulators]{}, squares[Tile::kAccumulators]{};
  tile.for_each([&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY {
    sum[j] += keep ? read<S>(input, i, count) : Vec<T>{};
  });
  tile.collect(sum);
  Vec<T> center[Tile::kVectors];
  unrolled<Tile::kVectors>([&](auto j) SDGAN_BODY { center[j] = sum[j] / static_cast<T>(n); });
  tile.for_each([&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY {
    const Vec<T> d = keep ? read<S>(input, i, count) - center[j % Tile::kVectors] : Vec<T>{};
    rest[j] += d;
    squares[j] += d * d;
  });
  tile.collect(rest);
  tile.collect(squares);
  double* mean = tile.partial();
  double* squares_about = mean + p.columns();
  tile.each_column([&](int64_t c, int j, int lane) {
    const double more = static_cast<double>(rest[j][lane]) / n;  // what rounding took from the center
    const double tile_mean = center[j][lane] + more;
    const double tile_squares = squares[j][lane] - more * more * n;
    if (tile.seen == 0) mean[c] = squares_about[c] = 0;
    merge(mean[c], squares_about[c], static_cast<double>(tile.seen), tile_mean, tile_squares, n);
  });
}

template <class S, class A, class Tile>
SDGAN_INLINE void tile_gradients(const BatchNormBackwardParams& p, A activation, const Tile& tile) {
  using T = compute_t<S>;
  const S* input = static_cast<const S*>(p.input);
  const S* grad_output = static_cast<const S*>(p.grad_output);
  const T negative_slope = static_cast<T>(p.negative_slope);
  Affine<T> affine[Tile::kVectors];
  unrolled<Tile::kVectors>(
      [&](auto j) SDGAN_BODY { affine[j] = Affine<T>(Factors<T, Tile::kInRows>(p, tile.first_column(j))); });
  Vec<T> sum[Tile::kAccumulators]{}, product[Tile::kAccumulators]{};
  tile.for_each([&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY {
    const Affine<T>& a = affine[j % Tile::kVectors];
    const Vec<T> x = read<S>(input, i, count);
    const Vec<T> grad = keep ? read<S>(grad_output, i, count) : Vec<T>{};
    const Vec<T> g = through_activation<T>(activation, grad, a(x), negative_slope);
    sum[j] += g;
    product[j] += g * (x - a.mean);
  });
  tile.collect(sum);
  tile.collect(product);
  double* sums = tile.partial();
  double* products = sums + p.columns();
  tile.each_column([&](int64_t c, int j, int lane) {
    sums[c] = (tile.seen ? sums[c] : 0) + sum[j][lane];
    products[c] = (tile.seen ? products[c] : 0) + product[j][lane];
  });
}

// ------------------------------------------------------------------------------------------- elementwise pass
// For every vector of a slice calls body(factors, i, count).
template <class S, class Body>
SDGAN_INLINE void map_slice(const BatchNormShape& p, int64_t slice, Body body) {
  using T = compute_t<S>;
  if (p.in_rows) {
    constexpr int lanes = kLanes<T>;
    const int64_t columns = p.columns();
    const int64_t step = lanes % columns;
    const int64_t end = std::min((slice + 1) * kSlice, p.rows() * columns);
    int64_t i = slice * kSlice;
    int64_t column = i % columns;
    for (; i + lanes <= end; i += lanes) {
      body(Factors<T, true>(p, column), i, lanes);
      column += step;
      if (column >= columns) column -= columns;
    }
    if (i < end) body(Factors<T, true>(p, column), i, static_cast<int>(end - i));
  } else {
    const Factors<T, false> factors(p, slice);
    for (int64_t n = 0; n < p.batch; ++n) {
      const int64_t at = (n * p.channels + slice) * p.length;
      const auto shifted = [&](auto, int64_t i, int count, Mask<T>) SDGAN_BODY { body(factors, at + i, count); };
      for_contiguous<T>(p.length, shifted);
    }
  }
}

// Joins the two sums of all blocks of rows, then of all columns of a channel: add(a, b, seen, more_a, more_b, n) adds
// those over n values to those over `seen` values.
template <class Add>
SDGAN_INLINE void collect_blocks(const BatchNormShape& p, int64_t begin, int64_t end, Add add) {
  double* __restrict a = p.partial;
  double* __restrict b = p.partial + p.columns();
  for (int64_t block = 1; block < p.partial_count(); ++block) {
    const double* __restrict more_a = p.partial + block * 2 * p.columns();
    const double* __restrict more_b = more_a + p.columns();
    const int64_t seen = block * BatchNormShape::kRows;
    const double n = static_cast<double>(std::min(BatchNormShape::kRows, p.rows() - seen));
    for (int64_t c = begin * p.repeat; c < end * p.repeat; ++c) {
      add(a[c], b[c], static_cast<double>(seen), more_a[c], more_b[c], n);
    }
  }
  const double n = static_cast<double>(p.rows());
  for (int64_t c = begin; c < end && p.repeat > 1; ++c) {
    a[c] = a[c * p.repeat];
    b[c] = b[c * p.repeat];
    for (int64_t i = 1; i < p.repeat; ++i) {
      add(a[c], b[c], n * static_cast<double>(i), a[c * p.repeat + i], b[c * p.repeat + i], n);
    }
  }
}

template <class S>
void finish(const BatchNormParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  T* mean_out = static_cast<T*>(p.mean_out);
  T* var_out = static_cast<T*>(p.var_out);
  if (p.given_mean) {
    std::copy_n(static_cast<const T*>(p.given_mean) + begin, end - begin, mean_out + begin);
    std::copy_n(static_cast<const T*>(p.given_var) + begin, end - begin, var_out + begin);
  } else {
    collect_blocks(p, begin, end, [](auto&&... of) { merge(of...); });
    const double n = static_cast<double>(p.count());
    for (int64_t c = begin; c < end; ++c) {
      mean_out[c] = static_cast<T>(p.partial[c]);
      var_out[c] = static_cast<T>(p.partial[p.columns() + c] / n);
    }
  }
  set_affine<T>(p, begin, end);
}

template <class S>
void backward_finish(const BatchNormBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T* var = static_cast<const T*>(p.var);
  const T* weight = static_cast<const T*>(p.weight);
  const double* sums = p.partial;  // of dL/dz, and of dL/dz (x - mean)
  const double* products = sums + p.columns();
  if (p.training || p.grad_weight || p.grad_bias) {
    collect_blocks(p, begin, end, [](double& a, double& b, double, double more_a, double more_b, double) {
      a += more_a;
      b += more_b;
    });
  }
  for (int64_t c = begin; c < end && p.grad_weight; ++c) {
    static_cast<T*>(p.grad_weight)[c] = static_cast<T>(products[c] * inverse_std(var[c], p.eps));
  }
  for (int64_t c = begin; c < end && p.grad_bias; ++c) static_cast<T*>(p.grad_bias)[c] = static_cast<T>(sums[c]);
  const double n = static_cast<double>(p.count());
  for (int64_t c = begin; c < end; ++c) {
    const double inverse = inverse_std(var[c], p.eps);
    const double scale = (weight ? weight[c] : 1) * inverse / n;
    factor<T>(p, kGradShift)[c] = static_cast<T>(p.training ? scale * sums[c] : 0);
    factor<T>(p, kGradSlope)[c] = static_cast<T>(p.training ? scale * inverse * inverse * products[c] : 0);
  }
  for (Factor f : {kGradShift, kGradSlope}) spread<T>(p, f);
}

}  // namespace

void batch_norm_reduce(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    for (int64_t s = begin; s < end; ++s) {
      for_tiles<S>(p, s, [&](const auto& tile) { tile_statistics<S>(p, tile); });
    }
  });
}

void batch_norm_finish(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { finish<decltype(storage)>(p, begin, end); });
}

void batch_norm_map(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = compute_t<S>;
    const T negative_slope = static_cast<T>(p.negative_slope);
    const S* input = static_cast<const S*>(p.input);
    S* output = static_cast<S*>(p.output);
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) {
        map_slice<S>(p, s, [=](const auto& factors, int64_t i, int count) SDGAN_BODY {
          const Vec<T> z = Affine<T>(factors)(read<S>(input, i, count));
          write<S>(output, i, count, activate<Math>(activation, z, negative_slope));
        });
      }
    });
  });
}

void batch_norm_backward_prepare(const BatchNormBackwardParams& p) {
  dispatch(p.dtype, [&](auto storage) { set_affine<compute_t<decltype(storage)>>(p, 0, p.channels); });
}

void batch_norm_backward_reduce(const BatchNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) {
        for_tiles<S>(p, s, [&](const auto& tile) { tile_gradients<S>(p, activation, tile); });
      }
    });
  });
}

void batch_norm_backward_finish(const BatchNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { backward_finish<decltype(storage)>(p, begin, end); });
}

void batch_norm_backward_map(const BatchNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = compute_t<S>;
    const T negative_slope = static_cast<T>(p.negative_slope);
    const S* input = static_cast<const S*>(p.input);
    const S* grad_output = static_cast<const S*>(p.grad_output);
    S* grad_input = static_cast<S*>(p.grad_input);
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) {
        map_slice<S>(p, s, [=](const auto& factors, int64_t i, int count) SDGAN_BODY {
          const Affine<T> affine(factors);
          const Vec<T> x = read<S>(input, i, count);
          const Vec<T> grad = read<S>(grad_output, i, count);
          const Vec<T> g = through_activation<T>(activation, grad, affine(x), negative_slope);
          const Vec<T> through_statistics = factors[kGradSlope] * (x - affine.mean) + factors[kGradShift];
          write<S>(grad_input, i, count, g * affine.scale - through_statistics);
        });
      }
    });
  });
}

}  // namespace sdgan::SDGAN_ISA
