// One pass each way. Bytes per element and element size: forward 3 (mean, logvar, z), backward 6 (grad_z, mean, logvar,
// z, grad_mean, grad_logvar). Drawing eps costs about as much time as that traffic, so it stays in registers and L1.
#include "kernels/gaussian.h"

#include "kernels/cpu/simd.h"
#include "kernels/philox.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int kBlocks = kLanes<uint64_t>;  // Philox blocks in a vector
constexpr int kStep = 4 * kBlocks;         // the normals in them
constexpr int kTile = 32 * kStep;          // the normals drawn together; divides kSlice

SDGAN_INLINE void random_words(Vec<uint64_t> (&word)[4], int64_t first_block, int64_t key) {
  Vec<uint64_t> block;
  for (int i = 0; i < kBlocks; ++i) block[i] = static_cast<uint64_t>(first_block) + i;
  word[0] = block;
  word[1] = block >> 32;
  word[2] = word[3] = Vec<uint64_t>{};
  philox<Math>(word, static_cast<uint64_t>(key));
}

// The count <= kTile normals of the elements from `first`, a multiple of kTile, on; rounded up to whole steps.
// All words come first, then all normals: short loops of independent steps keep the vector units busy.
SDGAN_INLINE void draw(float* eps, int64_t first, int64_t count, int64_t key) {
  for (int i = 0; i < count; i += kStep) {  // a block's words 0 and 1 make its first pair, 2 and 3 its second
    Vec<uint64_t> word[4];
    random_words(word, (first + i) / 4, key);
    store(eps + i, (Vec<float>)((word[0] & 0xffffffffu) | (word[2] << 32)));
    store(eps + i + kStep / 2, (Vec<float>)((word[1] & 0xffffffffu) | (word[3] << 32)));
  }
  for (int i = 0; i < count; i += kStep) {
    Vec<float> a, b;
    box_muller<Math>((Vec<uint32_t>)load(eps + i), (Vec<uint32_t>)load(eps + i + kStep / 2), a, b);
    store(eps + i, interleave<0>(a, b));
    store(eps + i + kStep / 2, interleave<1>(a, b));
  }
}

SDGAN_INLINE void draw(double* eps, int64_t first, int64_t count, int64_t key) {
  for (int i = 0; i < count; i += kStep) {
    Vec<uint64_t> word[4];
    random_words(word, (first + i) / 4, key);
    for (int j = 0; j < kStep; j += 2) {
      const Vec<uint64_t> radius = word[j % 4], angle = word[j % 4 + 1];
      box_muller(static_cast<uint32_t>(radius[j / 4]), static_cast<uint32_t>(angle[j / 4]), eps[i + j], eps[i + j + 1]);
    }
  }
}

template <class S>
void run(const GaussianParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  T drawn[kTile];
  for (int64_t s = begin; s < end; ++s) {
    Vec<T> sum{};
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      const Vec<T> mean = read_stream<S>(p.mean, i, count);
      const Vec<T> logvar = read_stream<S>(p.logvar, i, count);
      const Vec<T> sigma = vexp(T(0.5) * logvar);
      if (p.z) {
        if (p.seed && i % kTile == 0) draw(drawn, i, p.n - i < kTile ? p.n - i : kTile, *p.seed);
        const Vec<T> eps = p.seed ? load(drawn + i % kTile) : read_stream<S>(p.eps, i, count);
        write_stream<S>(p.z, i, count, mean + sigma * eps);
      }
      const Vec<T> kl = T(0.5) * (mean * mean + (sigma * sigma - T(1) - logvar));
      sum += first_lanes<T>(kl, count);
      write_stream<S>(p.kl, i, count, kl);
    });
    if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale;
  }
}

template <class S>
void run_backward(const GaussianBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  const Vec<T> one = splat(p.grad_kl && p.reduced ? load_one(static_cast<const S*>(p.grad_kl)) * scale : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      const Vec<T> mean = read_stream<S>(p.mean, i, count);
      const Vec<T> logvar = read_stream<S>(p.logvar, i, count);
      Vec<T> grad_mean{}, grad_logvar{};
      if (p.grad_z) {
        const Vec<T> grad_z = read_stream<S>(p.grad_z, i, count);
        grad_mean = grad_z;
        grad_logvar = grad_z * (read_stream<S>(p.z, i, count) - mean);
        if (p.grad_eps) write_stream<S>(p.grad_eps, i, count, grad_z * vexp(T(0.5) * logvar));
      }
      if (p.grad_kl) {
        const Vec<T> grad_kl = p.reduced ? one : read_stream<S>(p.grad_kl, i, count);
        grad_mean += grad_kl * mean;
        grad_logvar += grad_kl * (vexp(logvar) - T(1));
      }
      write_stream<S>(p.grad_mean, i, count, grad_mean);
      write_stream<S>(p.grad_logvar, i, count, T(0.5) * grad_logvar);
    });
  }
}

}  // namespace

void gaussian(const GaussianParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run<decltype(storage)>(p, begin, end); });
}

void gaussian_backward(const GaussianBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run_backward<decltype(storage)>(p, begin, end); });
}

}  // namespace sdgan::SDGAN_ISA
