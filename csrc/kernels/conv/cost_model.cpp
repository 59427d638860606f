#include "kernels/conv/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>

#include "kernels/conv/cost_table.h"
#include "kernels/conv/small_channel.h"
#include "kernels/conv/winograd/scheme.h"
#include "kernels/conv/winograd/winograd.h"

namespace sdgan {
namespace {

constexpr int kChannels = std::size(kTableChannels), kTiles = std::size(kTableTiles);
constexpr int kFewestChannels = kTableChannels[0];
constexpr double kCachedFilter = 2 << 20;  // bytes that the caches keep from one call to the next
constexpr double kSmallestImage = 4;       // pixels of y each way that were measured

double round_up(int64_t n, int64_t step) { return static_cast<double>((n + step - 1) / step * step); }

// ------------------------------------------------------------------------------------------------- the work
struct Images {
  double x, y;  // bytes
};

Images images_of(const ConvGeometry& g) {
  constexpr double size = sizeof(float);
  const int64_t x = g.x_pixels() * g.x_channels, y = g.y_pixels() * g.y_channels;
  return {size * static_cast<double>(x), size * static_cast<double>(y)};
}

double weight_of(const ConvGeometry& g) {
  return static_cast<double>(sizeof(float)) * static_cast<double>(g.taps() * g.x_channels * g.y_channels);
}

// Planes of a tile; docs/winograd.md.
struct Planes {
  int of_y;  // read by dgrad
  int of_x;  // read by fprop and wgrad
};

template <int taps, int stride, int parity>
constexpr Planes planes_of_scheme() {
  using S = winograd::Scheme<taps, stride, parity>;
  return {S::dgrad.map.planes * S::dgrad.map.planes, S::fprop.planes * S::fprop.planes};
}

Planes planes_of(const ConvAxis& a) {
  constexpr Planes known[3][2] = {{planes_of_scheme<3, 2, 0>(), planes_of_scheme<3, 2, 1>()},
                                  {planes_of_scheme<4, 2, 0>(), planes_of_scheme<4, 2, 1>()},
                                  {planes_of_scheme<5, 2, 0>(), planes_of_scheme<5, 2, 1>()}};
  return a.stride == 1 ? planes_of_scheme<3, 1, 0>() : known[a.taps - 3][a.pad & 1];
}

// Along an axis: tiles of 2 or 4 positions of y, in dgrad of the positions of x with one residue. A tile makes taps +
// stride * (tile - 1) products for a pair of channels, one that lacks its last position `stride` less.
struct TileRow {
  int64_t tiles, products;
};

TileRow tile_row(const ConvAxis& a, Pass pass, int64_t tile) {
  const int64_t positions = pass == Pass::dgrad ? (a.x + a.stride - 1) / a.stride : a.y;
  const int64_t tiles = (positions + tile - 1) / tile;
  return {tiles, (a.taps + a.stride * (tile - 2)) * tiles + a.stride * (positions / tile)};
}

double tiles_of(const ConvQuery& query, int64_t tile = 2) {
  const ConvGeometry& g = query.problem.geometry;
  const int64_t rows = tile_row(g.vertical, query.pass, tile).tiles;
  const int64_t columns = tile_row(g.horizontal, query.pass, tile).tiles;
  return static_cast<double>(g.batch * rows * columns);
}

// Of y, each way.
double side_of(const ConvGeometry& g) { return std::sqrt(static_cast<double>(g.vertical.y * g.horizontal.y)); }

int64_t products_of(const ConvGeometry& g, int64_t tile) {
  return tile == 4 ? winograd_f43_products(false) : winograd_products(g.vertical.taps, g.vertical.stride);
}

double filter_of(const ConvGeometry& g, int64_t tile) {
  return static_cast<double>(sizeof(float) * products_of(g, tile)) * round_up(g.x_channels, 16) *
         round_up(g.y_channels, 16);
}

// ------------------------------------------------------------------------------------------------- its time
// In microseconds, with one thread.
struct Time {
  double call, multiplications, images, reordered, filter, planes;

  double total() const { return call + multiplications + images + reordered + filter + planes; }
  const char* largest() const {
    const double parts[] = {call, multiplications, images, reordered, filter, planes};
    static constexpr const char* kNames[] = {"the call itself",
                                             "the products",
                                             "reading and writing images",
                                             "copies to another layout",
                                             "the transform of the weight",
                                             "the transforms of the images"};
    return kNames[std::max_element(std::begin(parts), std::end(parts)) - parts];
  }
};

Time time_of(const Work& work, double call, const Machine& machine) {
  return {call,
          2e-3 * (work.multiplications + machine.narrow * work.narrow) / machine.multiply,
          1e-3 * work.images / machine.memory,
          1e-3 * work.reordered / machine.reorder,
          1e-3 * work.filter / machine.filter,
          1e-3 * work.planes / machine.planes};
}

int table_isa(Isa isa) { return isa == Isa::avx512; }

const Machine& machine_of(Isa isa) { return kMachine[table_isa(isa)]; }

struct Times {
  Time library, winograd;

  double log_speedup() const { return std::log(library.total() / winograd.total()); }
};

Times times_of(const ConvQuery& query, Isa isa, int64_t tile = 2) {
  const Machine& machine = machine_of(isa);
  return {time_of(library_work(query, isa), machine.library_call, machine),
          time_of(winograd_work(query, tile), machine.winograd_call, machine)};
}

// What a filter that outgrows the caches costs in a network, where, other than in the table's repeated calls, neither
// its memory is at hand nor the weight, which fprop reads across its layout.
double cold_filter(const ConvQuery& query, const Machine& machine, int64_t tile) {
  if (query.pass == Pass::wgrad) return 0;
  const ConvGeometry& g = query.problem.geometry;
  const double bytes = filter_of(g, tile), beyond = std::max(0.0, 1 - kCachedFilter / bytes);
  const double weight = query.pass == Pass::fprop ? weight_of(g) / machine.reorder : 0;
  return 1e-3 * beyond * (bytes / machine.memory + weight);
}

// ------------------------------------------------------------------------------------------------- the table
// Where a value lies on a grid, in the logarithm; beyond the ends it is the end.
struct Place {
  int below = 0;
  double part = 0;  // of the way to the next
};

template <int n>
Place place(const int (&grid)[n], double value) {
  if (value <= grid[0]) return {0, 0};
  if (value >= grid[n - 1]) return {n - 2, 1};
  int below = 0;
  while (value >= grid[below + 1]) ++below;
  const double step = std::log(static_cast<double>(grid[below + 1]) / grid[below]);
  return {below, std::log(value / grid[below]) / step};
}

double between(const double* figures, Place at) {
  return figures[at.below] * (1 - at.part) + figures[at.below + 1] * at.part;
}

int table_pass(Pass pass) {
  switch (pass) {
    case Pass::dgrad:
      return 0;
    case Pass::fprop:
      return 1;
    default:
      return 2;
  }
}

struct Scheme {
  int64_t taps, stride;
};
constexpr Scheme kSchemes[4] = {{3, 1}, {3, 2}, {4, 2}, {5, 2}};

int table_scheme(const ConvAxis& a) { return a.stride == 1 ? 0 : static_cast<int>(a.taps) - 2; }

// By how much the model is off, as logarithms of measured over modelled speed-ups.
struct Errors {
  double cell[kChannels][kTiles][kChannels];  // [y] [tiles] [x]
  double small_image[kChannels];              // what 4 x 4 pixels of y add to it; of the same channels on both sides
};

struct ErrorTable {
  Errors of[2][2][3][4];  // [isa] [layout] [pass] [scheme]
};

ConvProblem cell_of(Scheme scheme, bool channels_last, int y_channels, int x_channels, int tiles, int64_t side) {
  const int64_t pad = scheme.stride == 1 || scheme.taps == 5 ? scheme.taps / 2 : 1;
  const ConvAxis axis{scheme.stride * side, side, scheme.taps, scheme.stride, 1, pad};
  const int64_t batch = tiles / (side / 2 * (side / 2));
  return {{axis, axis, batch, x_channels, y_channels}, false, DType::f32, false, channels_last};
}

Errors errors_of(Isa isa, bool channels_last, Pass pass, int scheme) {
  const auto& table = kWinogradPercent[table_isa(isa)][channels_last][table_pass(pass)][scheme];
  const auto& images = kImagePercent[table_isa(isa)][channels_last][table_pass(pass)][scheme];
  Errors errors;
  const auto modelled = [&](int y_channels, int x_channels, int tiles, int64_t side) {
    const ConvProblem problem = cell_of(kSchemes[scheme], channels_last, y_channels, x_channels, tiles, side);
    return times_of({problem, pass}, isa).log_speedup();
  };
  for (int y = 0; y < kChannels; ++y) {
    const int y_channels = kTableChannels[y];
    for (int x = 0; x < kChannels; ++x) {
      const int x_channels = kTableChannels[x];
      for (int t = 0; t < kTiles; ++t) {
        const bool measured = t < kTiles - 1 || y_channels * x_channels <= kTablePairs;
        const int tiles = kTableTiles[measured ? t : t - 1];
        const double percent = table[y][t][x];
        errors.cell[y][t][x] = std::log(percent / 100) - modelled(y_channels, x_channels, tiles, t == 0 ? 4 : 8);
      }
    }
    const double percent = images[0][y];
    errors.small_image[y] = std::log(percent / 100) - modelled(y_channels, y_channels, kImageTiles[y], 4) +
                            modelled(y_channels, y_channels, kImageTiles[y], 8);
  }
  return errors;
}

// Never destroyed: threads may still compute as the process ends.
const ErrorTable* all_errors() {
  auto* table = new ErrorTable;
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    for (const bool channels_last : {false, true}) {
      for (const Pass pass : {Pass::dgrad, Pass::fprop, Pass::wgrad}) {
        auto& schemes = table->of[table_isa(isa)][channels_last][table_pass(pass)];
        for (int scheme = 0; scheme < 4; ++scheme) schemes[scheme] = errors_of(isa, channels_last, pass, scheme);
      }
    }
  }
  return table;
}

// The logarithm of what the model is to be multiplied by.
double error_of(const ConvQuery& query, Isa isa) {
  static const ErrorTable* const all = all_errors();
  const ConvGeometry& g = query.problem.geometry;
  const auto& schemes = all->of[table_isa(isa)][query.problem.channels_last][table_pass(query.pass)];
  const Errors& errors = schemes[table_scheme(g.vertical)];
  const double x_channels = round_up(g.x_channels, 16), y_channels = round_up(g.y_channels, 16);
  const Place x = place(kTableChannels, x_channels), y = place(kTableChannels, y_channels);
  const Place tiles = place(kTableTiles, tiles_of(query));
  double error = 0;
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const double part = (i == 0 ? 1 - y.part : y.part) * (j == 0 ? 1 - tiles.part : tiles.part);
      error += part * between(errors.cell[y.below + i][tiles.below + j], x);
    }
  }
  // The cells of 8 tiles are images of 4 x 4 already, the others of 8 x 8.
  const double smallness = std::clamp(std::log2(8 / side_of(g)), 0.0, 1.0) * (tiles.below > 0 ? 1 : tiles.part);
  if (smallness == 0) return error;
  return error + smallness * between(errors.small_image, place(kTableChannels, std::sqrt(x_channels * y_channels)));
}

// ------------------------------------------------------------------------------------------------- the choice
// The least estimate that is followed: how far estimates were off, for one and two threads; docs/cost-model.md.
double winograd_least(const ConvQuery& query) {
  const ConvGeometry& g = query.problem.geometry;
  const double x_channels = round_up(g.x_channels, 16), y_channels = round_up(g.y_channels, 16);
  const double tiles = tiles_of(query);
  double least = std::min(x_channels, y_channels) <= 32 ? 1.15 : 1.05;
  if (tiles < kTableTiles[0] || side_of(g) < kSmallestImage) least = 1.5;  // nothing like it was measured
  if (query.pass == Pass::wgrad) {
    const bool one_slice = y_channels <= 32 && x_channels <= 16;  // which a second thread cannot help with
    return one_slice ? 2 * least : least;
  }
  const double few = 1 - std::clamp(std::log(tiles / 64) / std::log(8.0), 0.0, 1.0);  // from 64 tiles to 512
  return std::max(least, 1.05 + 0.2 * few);
}

Estimate yes(const char* reason) { return {true, 0, 0, reason}; }
Estimate no(const char* reason) { return {false, 0, 0, reason}; }

}  // namespace

Work library_work(const ConvQuery& query, Isa isa) {
  const ConvGeometry& g = query.problem.geometry;
  const bool dgrad = query.pass == Pass::dgrad, wgrad = query.pass == Pass::wgrad;
  const auto [x, y] = images_of(g);
  const int64_t written = dgrad ? g.x_channels : g.y_channels, read = dgrad ? g.y_channels : g.x_channels;
  Work work;
  const int64_t lanes = isa == Isa::avx512 ? 16 : 8;
  work.multiplications = static_cast<double>(g.y_pixels() * g.taps() * read) * round_up(written, lanes);
  work.images = x + y;
  work.reordered = weight_of(g) * (wgrad ? 2 : 1);
  if (dgrad && g.vertical.stride > 1) work.reordered += x;
  if (!query.problem.channels_last) work.reordered += x + y;
  return work;
}

Work winograd_work(const ConvQuery& query, int64_t tile) {
  const ConvGeometry& g = query.problem.geometry;
  const TileRow vertical = tile_row(g.vertical, query.pass, tile);
  const TileRow horizontal = tile_row(g.horizontal, query.pass, tile);
  const double x_channels = round_up(g.x_channels, 16), y_channels = round_up(g.y_channels, 16);
  const double products = static_cast<double>(products_of(g, tile));
  const auto [of_y, of_x] = tile == 4 ? Planes{36, 36} : planes_of(g.vertical);
  double planes = of_x * (x_channels + y_channels), columns = y_channels;
  if (query.pass == Pass::dgrad) {
    planes = of_y * y_channels + products * x_channels;
    columns = x_channels * products / of_y;
  }
  const auto [x, y] = images_of(g);
  Work work;
  work.multiplications =
      static_cast<double>(g.batch * vertical.products * horizontal.products) * x_channels * y_channels;
  work.narrow = work.multiplications * 16 / columns;
  work.images = x + y;
  work.reordered = query.problem.channels_last ? 0 : x + y;
  work.filter = filter_of(g, tile);
  work.planes = sizeof(float) * tiles_of(query, tile) * planes;
  return work;
}

std::string Estimate::text() const {
  if (reason != nullptr) return reason;
  char text[192];
  std::snprintf(text, sizeof text, "estimated at %.2f times the library's speed, %s %.2f; largest part of its time: %s",
                speedup, worthwhile ? "at least" : "below", least, largest);
  return text;
}

int64_t winograd_tile(const ConvQuery& query, Isa isa) {
  if (!query.problem.reduced_precision || query.pass == Pass::wgrad || !winograd_f43_serves(query.problem.geometry)) {
    return 2;
  }
  const Machine& machine = machine_of(isa);
  const auto time = [&](int64_t tile) {
    return times_of(query, isa, tile).winograd.total() + cold_filter(query, machine, tile);
  };
  return time(4) < time(2) ? 4 : 2;
}

int64_t winograd_tile(const ConvQuery& query) { return winograd_tile(query, cpu_isa()); }

Estimate winograd_estimate(const ConvQuery& query, Isa isa) {
  const ConvGeometry& g = query.problem.geometry;
  if (isa == Isa::generic) return no("the Winograd kernels are slow without AVX2");
  if (std::min(g.x_channels, g.y_channels) < kFewestChannels) {
    return no("fewer than 16 channels leave the Winograd kernels idle");
  }
  const int64_t tile = winograd_tile(query, isa);
  const Times times = times_of(query, isa, tile);
  const double warm = std::exp(times.log_speedup() + error_of(query, isa));
  const double speedup = 1 / (1 / warm + cold_filter(query, machine_of(isa), tile) / times.library.total());
  const double least = winograd_least(query);
  const char* algorithm = tile == 4 ? "F(4x4, 3x3)" : nullptr;
  return {speedup >= least, speedup, least, nullptr, times.winograd.largest(), algorithm};
}

Estimate winograd_estimate(const ConvQuery& query) { return winograd_estimate(query, cpu_isa()); }

Estimate small_channel_estimate(const ConvQuery& query) {
  const ConvProblem& problem = query.problem;
  if (problem.cuda) return no("our kernels have not been measured against cuDNN on a GPU yet");
  const int64_t in = problem.input_channels(), out = problem.output_channels();
  if (std::max(in, out) < 16) return no("both sides have fewer than 16 channels");
  if (problem.dtype == DType::bf16 && cpu_has_bf16_matrix_units()) {
    return no("in bfloat16 the library uses the processor's matrix units");
  }
  if (out <= kSmallChannels) return yes("the output has 1 to 4 channels");
  if (!query.is_forward() && query.both_gradients) return yes("the gradient of the input has 1 to 4 channels");
  if (problem.dtype == DType::bf16) return no("from few channels to many the library is as fast in bfloat16");
  if (in > 3 || problem.geometry.taps() < 9) {
    return no("from 4 channels, or with less than 9 taps, the library is as fast");
  }
  return yes("the input has 1 to 3 channels");
}

}  // namespace sdgan
