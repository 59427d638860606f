// The small-channel kernel against the sums of its header in double: both directions, both sides, phases, dilation,
// crops, channel counts that fill no vector; every buffer ends exactly where its data does.
#include "kernels/thin_conv.h"

#include <cmath>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_thin_conv();

namespace {

using testing::guarded;

struct Data {
  float* values;
  int64_t count;
};

Data data(int64_t count, int salt) {
  Data d{static_cast<float*>(guarded(count * sizeof(float))), count};
  for (int64_t i = 0; i < count; ++i) d.values[i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i) + salt));
  return d;
}

int64_t at(bool channels_last, int64_t n, int64_t c, int64_t h, int64_t w, int64_t channels, int64_t height,
           int64_t width) {
  return channels_last ? ((n * height + h) * width + w) * channels + c : ((n * channels + c) * height + h) * width + w;
}

// Calls body(wide index, thin index, weight index) for every product of the header.
template <class Body>
void for_products(const ThinConvParams& p, Body body) {
  const ThinConvAxis &v = p.vertical, &u = p.horizontal;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t h = 0; h < v.wide; ++h)
      for (int64_t w = 0; w < u.wide; ++w)
        for (int64_t y = 0; y < v.thin; ++y)
          for (int64_t x = 0; x < u.thin; ++x)
            for (int64_t r = 0; r < v.taps; ++r)
              for (int64_t s = 0; s < u.taps; ++s) {
                const int64_t dy = r * v.dilation - v.pad, dx = s * u.dilation - u.pad;
                const bool meet = p.wide_is_fine ? h == y * v.stride + dy && w == x * u.stride + dx
                                                 : y == h * v.stride + dy && x == w * u.stride + dx;
                if (!meet) continue;
                for (int64_t c = 0; c < p.channels; ++c)
                  for (int64_t k = 0; k < p.thin_channels; ++k)
                    body(at(p.channels_last, n, c, h, w, p.channels, v.wide, u.wide),
                         at(p.channels_last, n, k, y, x, p.thin_channels, v.thin, u.thin),
                         ((c * p.thin_channels + k) * v.taps + r) * u.taps + s);
              }
}

void expect_products(const float* got, const double* want, int64_t count) {
  for (int64_t i = 0; i < count; ++i) EXPECT_CLOSE(static_cast<double>(i), got[i], want[i], 2e-5);
}

void check(ThinConvParams p) {
  const int64_t thin_count = p.batch * p.vertical.thin * p.horizontal.thin * p.thin_channels;
  const int64_t wide_count = p.batch * p.vertical.wide * p.horizontal.wide * p.channels;
  const int64_t weight_count = p.channels * p.taps();
  const Data wide = data(wide_count, 1), thin = data(thin_count, 2), weight = data(weight_count, 3);
  const Data wide_out = data(wide_count, 4), thin_out = data(thin_count, 5), grad_weight = data(weight_count, 6);
  const int64_t rs = p.vertical.taps * p.horizontal.taps;
  const int64_t strides[] = {p.thin_channels * rs, rs, p.horizontal.taps, 1};
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = strides[i];
  p.weight = weight.values;
  p.wide_in = wide.values;
  p.thin_in = thin.values;
  p.wide_out = wide_out.values;
  p.thin_out = thin_out.values;
  p.sums_over_batch = p.weight_gradient = true;
  const int64_t partial_count = p.slice_count() * p.partial_size();
  p.partial = guarded(partial_count * sizeof(float));
  thin_conv(p, 0, p.slice_count());
  thin_conv_gradients(p, grad_weight.values, nullptr);

  double* want_wide = static_cast<double*>(guarded(wide_count * sizeof(double)));
  double* want_thin = static_cast<double*>(guarded(thin_count * sizeof(double)));
  double* want_weight = static_cast<double*>(guarded(weight_count * sizeof(double)));
  for_products(p, [&](int64_t x, int64_t y, int64_t w) {
    want_wide[x] += static_cast<double>(thin.values[y]) * weight.values[w];
    want_thin[y] += static_cast<double>(wide.values[x]) * weight.values[w];
    want_weight[w] += static_cast<double>(wide.values[x]) * thin.values[y];
  });
  expect_products(wide_out.values, want_wide, wide_count);
  expect_products(thin_out.values, want_thin, thin_count);
  expect_products(grad_weight.values, want_weight, weight_count);
}

}  // namespace

void test_thin_conv() {
  struct Case {
    ThinConvAxis vertical, horizontal;  // wide, thin, taps, stride, dilation, pad
    bool wide_is_fine;
  };
  const Case cases[] = {
      {{7, 7, 5, 1, 1, 2}, {9, 9, 5, 1, 1, 2}, true},     // conv 5x5
      {{4, 8, 4, 2, 1, 1}, {5, 10, 4, 2, 1, 1}, false},   // transposed 4x4
      {{8, 4, 5, 2, 1, 1}, {10, 5, 5, 2, 1, 1}, true},    // Keras' same
      {{3, 9, 2, 3, 1, 0}, {17, 16, 3, 1, 2, 2}, false},  // rows that no tap reaches; dilation, crop
      {{7, 3, 1, 2, 1, 0}, {6, 2, 2, 3, 2, 1}, true},     // phases without a tap
  };
  for (const Case& c : cases) {
    for (int64_t channels : {1, 5, 16, 37, 128}) {
      for (int64_t thin_channels : {1, 3}) {
        for (bool channels_last : {false, true}) {
          ThinConvParams p;
          p.vertical = c.vertical;
          p.horizontal = c.horizontal;
          p.wide_is_fine = c.wide_is_fine;
          p.batch = 2;
          p.channels = channels;
          p.thin_channels = thin_channels;
          p.channels_last = channels_last;
          check(p);
        }
      }
    }
  }
}

}  // namespace sdgan::SDGAN_ISA
