// The taps of a block of channels on both sides, between memory and registers.
#pragma once

#include <cstring>

#include "kernels/conv/winograd/tiles.h"
#include "kernels/cpu/transpose.h"

namespace sdgan::SDGAN_ISA {
namespace {

// block[k][r * taps + s]: vectors over `count` <= lanes channels of one side, for `depth` <= lanes channels k of the
// other. Memory is touched along whichever dimension is contiguous there.
template <int taps>
struct TapBlock {
  static constexpr int kTaps = taps * taps;
  static constexpr int kRun = std::min(kTaps, kLane);  // taps moved at once where they are contiguous
  Vector block[kLane][kTaps];
  int64_t k_step, lane_step, row, column;  // in elements, of memory

  SDGAN_INLINE void load_from(const float* weight, int depth, int count) {
    if (lane_step == 1) {
      for (int k = 0; k < depth; ++k) {
        for (int t = 0; t < kTaps; ++t) block[k][t] = read<float>(weight + k * k_step + place(t), 0, count);
      }
    } else if (k_step == 1) {
      for (int t = 0; t < kTaps; ++t) {
        Vector rows[kLane] = {};
        for (int i = 0; i < count; ++i) rows[i] = read<float>(weight + i * lane_step + place(t), 0, depth);
        transpose<float>(rows);
        for (int k = 0; k < depth; ++k) block[k][t] = rows[k];
      }
    } else if (column == 1 && row == taps) {
      for (int k = 0; k < depth; ++k) {
        for (int from = 0; from < kTaps; from += kLane) {
          Vector rows[kLane] = {};
          for (int i = 0; i < count; ++i) {
            rows[i] = read<float>(weight + k * k_step + i * lane_step + run(from), 0, kRun);
          }
          transpose<float>(rows);
          for (int t = 0; t < kRun; ++t) block[k][run(from) + t] = rows[t];
        }
      }
    } else {
      for_each(depth, count, [&](int k, int t, int i, int64_t at) { block[k][t][i] = weight[at]; });
    }
  }

  SDGAN_INLINE void store_to(float* weight, int depth, int count) const {
    if (lane_step == 1) {
      for (int k = 0; k < depth; ++k) {
        for (int t = 0; t < kTaps; ++t) write<float>(weight + k * k_step + place(t), 0, count, block[k][t]);
      }
    } else if (k_step == 1) {
      for (int t = 0; t < kTaps; ++t) {
        Vector rows[kLane] = {};
        for (int k = 0; k < depth; ++k) rows[k] = block[k][t];
        transpose<float>(rows);
        for (int i = 0; i < count; ++i) write<float>(weight + i * lane_step + place(t), 0, depth, rows[i]);
      }
    } else if (column == 1 && row == taps) {
      for (int k = 0; k < depth; ++k) {
        for (int from = 0; from < kTaps; from += kLane) {
          Vector rows[kLane] = {};
          for (int t = 0; t < kRun; ++t) rows[t] = block[k][run(from) + t];
          transpose<float>(rows);
          for (int i = 0; i < count; ++i) {
            write<float>(weight + k * k_step + i * lane_step + run(from), 0, kRun, rows[i]);
          }
        }
      }
    } else {
      for_each(depth, count, [&](int k, int t, int i, int64_t at) { weight[at] = block[k][t][i]; });
    }
  }

 private:
  int64_t place(int t) const { return t / taps * row + t % taps * column; }
  static int run(int from) { return std::min(from, kTaps - kRun); }  // the last run overlaps the one before
  template <class Body>
  void for_each(int depth, int count, Body body) const {
    for (int k = 0; k < depth; ++k) {
      for (int t = 0; t < kTaps; ++t) {
        for (int i = 0; i < count; ++i) body(k, t, i, k * k_step + i * lane_step + place(t));
      }
    }
  }
};

// Calls put(taps, k, c) for the weight of fprop or dgrad: its taps r * taps + s as vectors over the written channels
// from c on, for each channel k of the side that is read, begin <= k < end. The padding's channels are zero.
template <int taps, class Put>
SDGAN_INLINE void for_taps(const WinogradParams& p, int64_t begin, int64_t end, Put put) {
  const bool dgrad = p.pass == Pass::dgrad;
  const int64_t read_channels = dgrad ? p.geometry.y_channels : p.geometry.x_channels;
  const int64_t written = dgrad ? p.geometry.x_channels : p.geometry.y_channels;
  const int64_t padded = WinogradParams::pad(written);
  TapBlock<taps> of;
  of.k_step = p.weight_stride[dgrad ? 0 : 1];
  of.lane_step = p.weight_stride[dgrad ? 1 : 0];
  of.row = p.weight_stride[2];
  of.column = p.weight_stride[3];
  const int64_t step = of.lane_step == 1 ? 1 : kLane;  // along k

  const auto block = [&](int64_t first, int64_t c) {
    const int some = static_cast<int>(std::clamp<int64_t>(read_channels - first, 0, step));
    const int count = static_cast<int>(std::clamp<int64_t>(written - c, 0, kLane));
    if (some > 0 && count > 0) of.load_from(p.weight + first * of.k_step + c * of.lane_step, some, count);
    for (int64_t k = first; k < std::min(end, first + step); ++k) {
      if (k - first >= some || count == 0) std::memset(of.block[k - first], 0, sizeof of.block[0]);
      put(of.block[k - first], k, c);
    }
  };
  if (of.k_step < of.lane_step) {  // through memory in its order
    for (int64_t c = 0; c < padded; c += kLane) {
      for (int64_t first = begin; first < end; first += step) block(first, c);
    }
  } else {
    for (int64_t first = begin; first < end; first += step) {
      for (int64_t c = 0; c < padded; c += kLane) block(first, c);
    }
  }
}

// Where element (row, column) of a matrix [rows, columns] lies once it is packed for gemm.h.
SDGAN_INLINE int64_t packed_place(int64_t rows, int64_t columns, int64_t row, int64_t column) {
  const int64_t panel = column / kPanel, width = std::min(kPanel, columns - panel * kPanel);
  return panel * kPanel * rows + row * width + column % kPanel;
}

}  // namespace
}  // namespace sdgan::SDGAN_ISA
