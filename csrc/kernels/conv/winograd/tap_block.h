// The taps of a block of channels on both sides, between memory and registers.
#pragma once

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

}  // namespace
}  // namespace sdgan::SDGAN_ISA
