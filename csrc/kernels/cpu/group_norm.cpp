// Statistics in one reading: a block sums x - K and (x - K)^2 in the compute type, where K is the mean of a few values
// of the group in this block, so that nothing cancels; blocks are merged in order in double (Chan, Golub & LeVeque
// 1983, eqs. 1.5 and 1.7): accurate also where the mean is much larger than the standard deviation, the same for any
// number of threads. Bytes, per element and element size: forward 3 (x twice, y), backward 5 (x and dL/dy twice, dL/dx)
// or 6 where g is kept; the second reading comes from cache where the group (in planes) or the image (in rows) fits.
//
// In rows several rows are read side by side: each is a contiguous stream, and what belongs to a column is loaded once
// for all of them.
#include "kernels/group_norm.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/norm.h"

namespace sdgan::SDGAN_ISA {
namespace {

// Calls body(column, count) for vectors that cover the columns, each once; count < lanes in the last one only.
template <class T, class Body>
SDGAN_INLINE void for_columns(int64_t columns, Body body) {
  int64_t c = 0;
  for (; c + kLanes<T> <= columns; c += kLanes<T>) body(c, kLanes<T>);
  if (c < columns) body(c, static_cast<int>(columns - c));
}

// Calls body(std::integral_constant<int, n>{}, row) for groups of n = at_once rows, then of one.
template <int at_once, class Body>
SDGAN_INLINE void for_rows(int64_t rows, Body body) {
  int64_t r = 0;
  for (; r + at_once <= rows; r += at_once) body(std::integral_constant<int, at_once>{}, r);
  for (; r < rows; ++r) body(std::integral_constant<int, 1>{}, r);
}

// The rows of one slice.
struct RowBlock {
  int64_t image, block, rows, offset;  // offset: the block's first element in the tensor
  RowBlock(const GroupNormShape& p, int64_t slice) : image(slice / p.row_blocks()), block(slice % p.row_blocks()) {
    const int64_t row = block * p.block_rows();
    rows = std::min(p.block_rows(), p.length - row);
    offset = (image * p.length + row) * p.channels;
  }
};

template <class T>
SDGAN_INLINE T value(const void* vector, int64_t i, T otherwise) {
  return vector ? static_cast<const T*>(vector)[i] : otherwise;
}

// -------------------------------------------------------------------------------------- what a channel multiplies by
enum Factor {
  kMean,
  kScale,
  kBias,
  kShift,
  kTilt
};  // the rows of factors; dL/dx = scale g - [shift + tilt (x - mean)]

template <class T>
SDGAN_INLINE T* factor_of(const GroupNormShape& p, int64_t image, Factor f) {
  return reinterpret_cast<T*>(p.factors) + (image * 5 + f) * (p.channels + GroupNormShape::kFactorPad);
}

template <class T>
struct Affine {
  Vec<T> mean, scale, bias;
  SDGAN_INLINE Vec<T> operator()(Vec<T> x) const { return (x - mean) * scale + bias; }
};

// Of consecutive columns. Lanes past the last one hold anything.
template <class T>
SDGAN_INLINE Affine<T> affine_of_columns(const T* factors, int64_t stride, int64_t column) {
  return {load(factors + kMean * stride + column), load(factors + kScale * stride + column),
          load(factors + kBias * stride + column)};
}

// Of one channel of one image.
template <class T>
SDGAN_INLINE Affine<T> affine_of_plane(const GroupNormShape& p, int64_t image, int64_t channel) {
  const int64_t group = image * p.groups + channel / p.group_channels();
  return {splat(static_cast<const T*>(p.mean)[group]),
          splat(static_cast<const T*>(p.rstd)[group] * value<T>(p.weight, channel, 1)),
          splat(value<T>(p.bias, channel, 0))};
}

// In rows: the factors of a group's columns.
template <class T>
void set_affine(const GroupNormShape& p, int64_t group) {
  if (!p.in_rows) return;
  const int64_t image = group / p.groups, size = p.group_channels(), first = group % p.groups * size;
  const T mean = static_cast<const T*>(p.mean)[group], rstd = static_cast<const T*>(p.rstd)[group];
  for (int64_t c = first; c < first + size; ++c) {
    factor_of<T>(p, image, kMean)[c] = mean;
    factor_of<T>(p, image, kScale)[c] = rstd * value<T>(p.weight, c, 1);
    factor_of<T>(p, image, kBias)[c] = value<T>(p.bias, c, 0);
  }
}

// ------------------------------------------------------------------------------------------------ statistics
// partial [N, blocks, G, 2]: the mean of a group's n values in a block and the squares about it, from sums about pivot.
SDGAN_INLINE void store_statistics(const GroupNormParams& p, int64_t image, int64_t block, int64_t group, double n,
                                   double pivot, double sum, double squares) {
  double* of_group = p.partial + ((image * p.blocks() + block) * p.groups + group) * 2;
  of_group[0] = pivot + sum / n;
  of_group[1] = std::max(0.0, squares - sum * sum / n);
}

template <class S>
void row_statistics(const GroupNormParams& p, int64_t slice, compute_t<S>* scratch) {
  using T = compute_t<S>;
  const RowBlock block(p, slice);
  const S* input = static_cast<const S*>(p.input) + block.offset;
  const int64_t columns = p.channels, stride = columns + kLanes<T>, size = p.group_channels();
  T* pivot = scratch;
  T* sum = scratch + stride;
  T* squares = scratch + 2 * stride;
  std::fill(sum, sum + 2 * stride, T(0));
  const int64_t few = std::min<int64_t>(4, block.rows);  // more than one: it may be an outlier
  for_columns<T>(columns, [&](int64_t c, int count) SDGAN_BODY {
    Vec<T> total{};
    for (int64_t row = 0; row < few; ++row) total += read<S>(input, row * columns + c, count);
    store(pivot + c, total);
  });
  for (int64_t g = 0; g < p.groups; ++g) {
    double total = 0;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) total += static_cast<double>(pivot[c]);
    std::fill(pivot + g * size, pivot + (g + 1) * size, static_cast<T>(total / static_cast<double>(few * size)));
  }
  for_rows<8>(block.rows, [&](auto n, int64_t row) SDGAN_BODY {
    for_columns<T>(columns, [&](int64_t c, int count) SDGAN_BODY {
      const Vec<T> k = load(pivot + c);
      Vec<T> s{}, q{};
      unrolled<n>([&](auto j) SDGAN_BODY {
        const Vec<T> d = read<S>(input, (row + j) * columns + c, count) - k;
        s += d;
        q += d * d;
      });
      store(sum + c, load(sum + c) + s);
      store(squares + c, load(squares + c) + q);
    });
  });
  for (int64_t g = 0; g < p.groups; ++g) {
    double s = 0, q = 0;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) {
      s += static_cast<double>(sum[c]);
      q += static_cast<double>(squares[c]);
    }
    const double n = static_cast<double>(block.rows * size);
    store_statistics(p, block.image, block.block, g, n, static_cast<double>(pivot[g * size]), s, q);
  }
}

template <class S>
void plane_statistics(const GroupNormParams& p, int64_t slice) {
  using T = compute_t<S>;
  const int64_t group = slice / p.blocks(), block = slice % p.blocks(), begin = block * GroupNormShape::kPlaneBlock;
  const int64_t n = std::min(GroupNormShape::kPlaneBlock, p.group_size() - begin);
  const S* input = static_cast<const S*>(p.input) + group * p.group_size() + begin;
  const int few = static_cast<int>(std::min<int64_t>(n, kLanes<T>));
  const T pivot = static_cast<T>(sum_lanes(read<S>(input, 0, few)) / few);
  Vec<T> sum[kUnroll]{}, squares[kUnroll]{};
  for_contiguous<T>(n, [&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY {
    const Vec<T> d = keep ? read<S>(input, i, count) - pivot : Vec<T>{};
    sum[j] += d;
    squares[j] += d * d;
  });
  store_statistics(p, group / p.groups, block, group % p.groups, static_cast<double>(n), static_cast<double>(pivot),
                   sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])),
                   sum_lanes((squares[0] + squares[1]) + (squares[2] + squares[3])));
}

template <class T>
void finish(const GroupNormParams& p, int64_t group) {
  const int64_t image = group / p.groups;
  const int64_t of_block = p.in_rows ? p.block_rows() * p.group_channels() : GroupNormShape::kPlaneBlock;
  double mean = 0, squares = 0;
  for (int64_t b = 0; b < p.blocks(); ++b) {
    const double* more = p.partial + ((image * p.blocks() + b) * p.groups + group % p.groups) * 2;
    const int64_t seen = b * of_block;
    merge(mean, squares, static_cast<double>(seen), more[0], more[1],
          static_cast<double>(std::min(of_block, p.group_size() - seen)));
  }
  const double var = squares / static_cast<double>(p.group_size());
  static_cast<T*>(p.mean_out)[group] = static_cast<T>(mean);
  static_cast<T*>(p.rstd_out)[group] = static_cast<T>(1 / std::sqrt(var + p.eps));
  set_affine<T>(p, group);
}

template <class S, class A>
void map_slice(const GroupNormParams& p, A activation, int64_t slice) {
  using T = compute_t<S>;
  const T negative_slope = static_cast<T>(p.negative_slope);
  if (p.in_rows) {
    const RowBlock block(p, slice);
    const int64_t columns = p.channels, stride = columns + GroupNormShape::kFactorPad;
    const S* input = static_cast<const S*>(p.input) + block.offset;
    S* output = static_cast<S*>(p.output) + block.offset;
    const T* factors = factor_of<T>(p, block.image, Factor{});
    for_rows<4>(block.rows, [&](auto n, int64_t row) SDGAN_BODY {
      for_columns<T>(columns, [&](int64_t c, int count) SDGAN_BODY {
        const Affine<T> affine = affine_of_columns(factors, stride, c);
        unrolled<n>([&](auto j) SDGAN_BODY {
          const int64_t i = (row + j) * columns + c;
          write<S>(output, i, count, activate<Math>(activation, affine(read<S>(input, i, count)), negative_slope));
        });
      });
    });
  } else {
    const Affine<T> affine = affine_of_plane<T>(p, slice / p.channels, slice % p.channels);
    const S* input = static_cast<const S*>(p.input) + slice * p.length;
    S* output = static_cast<S*>(p.output) + slice * p.length;
    for_columns<T>(p.length, [&](int64_t i, int count) SDGAN_BODY {
      write<S>(output, i, count, activate<Math>(activation, affine(read<S>(input, i, count)), negative_slope));
    });
  }
}

// -------------------------------------------------------------------------------------------------- gradients
// Where act' takes an exponential, the reduction leaves g in grad_input, which the elementwise pass then reads.
constexpr bool keeps_gradient(Activation a) {
  return a != Activation::none && a != Activation::relu && a != Activation::leaky_relu;
}

// partial [N, blocks, 2, C]: s and t of a channel in a block.
SDGAN_INLINE double* sums_of(const GroupNormBackwardParams& p, int64_t image, int64_t block) {
  return p.partial + (image * p.blocks() + block) * 2 * p.channels;
}

template <class S, class A>
void row_sums(const GroupNormBackwardParams& p, A activation, int64_t slice, compute_t<S>* scratch) {
  using T = compute_t<S>;
  const RowBlock block(p, slice);
  const T negative_slope = static_cast<T>(p.negative_slope);
  const int64_t columns = p.channels, stride = columns + GroupNormShape::kFactorPad;
  const S* input = static_cast<const S*>(p.input) + block.offset;
  const S* grad_output = static_cast<const S*>(p.grad_output) + block.offset;
  S* grad_input = static_cast<S*>(p.grad_input) + block.offset;
  const T* factors = factor_of<T>(p, block.image, Factor{});
  T* sum = scratch;
  T* product = scratch + columns + kLanes<T>;
  std::fill(scratch, scratch + 2 * (columns + kLanes<T>), T(0));
  for_rows<4>(block.rows, [&](auto n, int64_t row) SDGAN_BODY {
    for_columns<T>(columns, [&](int64_t c, int count) SDGAN_BODY {
      const Affine<T> affine = affine_of_columns(factors, stride, c);
      Vec<T> s{}, t{};
      unrolled<n>([&](auto j) SDGAN_BODY {
        const int64_t i = (row + j) * columns + c;
        const Vec<T> x = read<S>(input, i, count);
        const Vec<T> g = through_activation<T>(activation, read<S>(grad_output, i, count), affine(x), negative_slope);
        if constexpr (keeps_gradient(A::value)) write<S>(grad_input, i, count, g);
        s += g;
        t += g * (x - affine.mean);
      });
      store(sum + c, load(sum + c) + s);
      store(product + c, load(product + c) + t);
    });
  });
  double* sums = sums_of(p, block.image, block.block);
  for (int64_t c = 0; c < columns; ++c) sums[c] = static_cast<double>(sum[c]);
  for (int64_t c = 0; c < columns; ++c) sums[columns + c] = static_cast<double>(product[c]);
}

template <class S, class A>
void plane_sums(const GroupNormBackwardParams& p, A activation, int64_t slice) {
  using T = compute_t<S>;
  const int64_t image = slice / p.channels, channel = slice % p.channels;
  const T negative_slope = static_cast<T>(p.negative_slope);
  const Affine<T> affine = affine_of_plane<T>(p, image, channel);
  double total = 0, total_product = 0;
  for (int64_t begin = 0; begin < p.length; begin += GroupNormShape::kPlaneBlock) {
    const S* input = static_cast<const S*>(p.input) + slice * p.length + begin;
    const S* grad_output = static_cast<const S*>(p.grad_output) + slice * p.length + begin;
    S* grad_input = static_cast<S*>(p.grad_input) + slice * p.length + begin;
    Vec<T> sum[kUnroll]{}, product[kUnroll]{};
    for_contiguous<T>(std::min(GroupNormShape::kPlaneBlock, p.length - begin),
                      [&](auto j, int64_t i, int count, Mask<T> keep) SDGAN_BODY {
                        const Vec<T> x = read<S>(input, i, count);
                        const Vec<T> of_all = through_activation<T>(activation, read<S>(grad_output, i, count),
                                                                    affine(x), negative_slope);
                        if constexpr (keeps_gradient(A::value)) write<S>(grad_input, i, count, of_all);
                        const Vec<T> g = keep ? of_all : Vec<T>{};
                        sum[j] += g;
                        product[j] += g * (x - affine.mean);
                      });
    total += sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    total_product += sum_lanes((product[0] + product[1]) + (product[2] + product[3]));
  }
  double* sums = sums_of(p, image, 0);
  sums[channel] = total;
  sums[p.channels + channel] = total_product;
}

// The sums of an image's channels go to its first block; then what the group's values share.
template <class T>
void backward_finish(const GroupNormBackwardParams& p, int64_t group) {
  const int64_t image = group / p.groups, size = p.group_channels(), first = group % p.groups * size;
  double* __restrict sums = sums_of(p, image, 0) + first;
  double* __restrict products = sums + p.channels;
  for (int64_t block = 1; block < p.blocks(); ++block) {
    const double* __restrict more = sums_of(p, image, block) + first;
    for (int64_t c = 0; c < size; ++c) sums[c] += more[c];
    for (int64_t c = 0; c < size; ++c) products[c] += more[p.channels + c];
  }
  double a = 0, b = 0;
  for (int64_t c = 0; c < size; ++c) {
    const double weight = static_cast<double>(value<T>(p.weight, first + c, 1));
    a += weight * sums[c];
    b += weight * products[c];
  }
  const double rstd = static_cast<double>(static_cast<const T*>(p.rstd)[group]);
  const double shift = rstd * a / static_cast<double>(p.group_size());
  const double tilt = rstd * rstd * rstd * b / static_cast<double>(p.group_size());
  if (p.in_rows) {
    std::fill_n(factor_of<T>(p, image, kShift) + first, size, static_cast<T>(shift));
    std::fill_n(factor_of<T>(p, image, kTilt) + first, size, static_cast<T>(tilt));
  } else {
    p.factors[group * 2] = shift;
    p.factors[group * 2 + 1] = tilt;
  }
}

template <class S, class A>
void backward_map_slice(const GroupNormBackwardParams& p, A activation, int64_t slice) {
  using T = compute_t<S>;
  const T negative_slope = static_cast<T>(p.negative_slope);
  const auto map = [&](int64_t offset, int64_t i, int count, const Affine<T>& affine, Vec<T> shift,
                       Vec<T> tilt) SDGAN_BODY {
    const Vec<T> x = read<S>(p.input, offset + i, count);
    Vec<T> g = read<S>(keeps_gradient(A::value) ? p.grad_input : p.grad_output, offset + i, count);
    if constexpr (!keeps_gradient(A::value)) g = through_activation<T>(activation, g, affine(x), negative_slope);
    write<S>(p.grad_input, offset + i, count, g * affine.scale - (tilt * (x - affine.mean) + shift));
  };
  if (p.in_rows) {
    const RowBlock block(p, slice);
    const int64_t columns = p.channels, stride = columns + GroupNormShape::kFactorPad;
    const T* factors = factor_of<T>(p, block.image, Factor{});
    for_rows<4>(block.rows, [&](auto n, int64_t row) SDGAN_BODY {
      for_columns<T>(columns, [&](int64_t c, int count) SDGAN_BODY {
        const Affine<T> affine = affine_of_columns(factors, stride, c);
        const Vec<T> shift = load(factors + kShift * stride + c), tilt = load(factors + kTilt * stride + c);
        unrolled<n>([&](auto j) SDGAN_BODY { map(block.offset, (row + j) * columns + c, count, affine, shift, tilt); });
      });
    });
  } else {
    const int64_t image = slice / p.channels, channel = slice % p.channels;
    const Affine<T> affine = affine_of_plane<T>(p, image, channel);
    const double* factors = p.factors + (image * p.groups + channel / p.group_channels()) * 2;
    const Vec<T> shift = splat(static_cast<T>(factors[0])), tilt = splat(static_cast<T>(factors[1]));
    for_columns<T>(p.length,
                   [&](int64_t i, int count) SDGAN_BODY { map(slice * p.length, i, count, affine, shift, tilt); });
  }
}

template <class T>
void backward_vectors(const GroupNormBackwardParams& p, int64_t channel) {
  double weight = 0, bias = 0;
  for (int64_t image = 0; image < p.batch; ++image) {
    const double* sums = sums_of(p, image, 0);
    const T rstd = static_cast<const T*>(p.rstd)[image * p.groups + channel / p.group_channels()];
    bias += sums[channel];
    weight += sums[p.channels + channel] * static_cast<double>(rstd);
  }
  if (p.grad_weight) static_cast<T*>(p.grad_weight)[channel] = static_cast<T>(weight);
  if (p.grad_bias) static_cast<T*>(p.grad_bias)[channel] = static_cast<T>(bias);
}

template <class S>
Buffer<compute_t<S>> row_scratch(const GroupNormShape& p, int64_t rows) {
  return Buffer<compute_t<S>>(p.in_rows ? rows * (p.channels + kLanes<compute_t<S>>) : 0);
}

}  // namespace

void group_norm_reduce(const GroupNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    auto scratch = row_scratch<S>(p, 3);
    for (int64_t s = begin; s < end; ++s) {
      if (p.in_rows) {
        row_statistics<S>(p, s, scratch.data());
      } else {
        plane_statistics<S>(p, s);
      }
    }
  });
}

void group_norm_finish(const GroupNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    for (int64_t group = begin; group < end; ++group) finish<compute_t<decltype(storage)>>(p, group);
  });
}

void group_norm_map(const GroupNormParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) map_slice<decltype(storage)>(p, activation, s);
    });
  });
}

void group_norm_backward_prepare(const GroupNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    for (int64_t group = begin; group < end; ++group) set_affine<compute_t<decltype(storage)>>(p, group);
  });
}

void group_norm_backward_reduce(const GroupNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    auto scratch = row_scratch<S>(p, 2);
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) {
        if (p.in_rows) {
          row_sums<S>(p, activation, s, scratch.data());
        } else {
          plane_sums<S>(p, activation, s);
        }
      }
    });
  });
}

void group_norm_backward_finish(const GroupNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    for (int64_t group = begin; group < end; ++group) backward_finish<compute_t<decltype(storage)>>(p, group);
  });
}

void group_norm_backward_map(const GroupNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_activation(p.activation, [&](auto activation) {
      for (int64_t s = begin; s < end; ++s) backward_map_slice<decltype(storage)>(p, activation, s);
    });
  });
}

void group_norm_backward_vectors(const GroupNormBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    for (int64_t c = begin; c < end; ++c) backward_vectors<compute_t<decltype(storage)>>(p, c);
  });
}

}  // namespace sdgan::SDGAN_ISA
