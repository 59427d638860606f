// Runs every wrapper of ptx.cuh and sm90.cuh in one warp, takes all that it left in registers and shared memory, and
// compares that with what the PTX ISA says, computed by plain loops that share nothing with the host versions. Compiled
// twice: into test_ptx (the host versions) and test_ptx_gpu (the hardware). Values are small integers or powers of two
// wherever sums must come out the same bits in any order.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/cuda/sm90.cuh"

namespace sdgan::cuda::probe {

struct Report {
  long checks = 0, failures = 0;

  __attribute__((format(printf, 3, 4))) void expect(bool ok, const char* format, ...) {
    ++checks;
    if (ok || ++failures > 20) return;
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
  }
};

// ------------------------------------------------------------------------------------------- memory of the device
#ifdef __CUDACC__
inline void* device_memory(const void* host, size_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, bytes) != cudaSuccess) return nullptr;
  cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice);
  return p;
}
inline void take_back(void* host, void* device, size_t bytes) {
  cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost);
  cudaFree(device);
}
#else
inline void* device_memory(const void* host, size_t bytes) {
  void* p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memcpy(p, host, bytes);
  return p;
}
inline void take_back(void* host, void* device, size_t bytes) {
  std::memcpy(host, device, bytes);
  std::free(device);
}
#endif

// Device memory with the contents of a vector, which get() brings up to date.
template <class T>
struct Buffer {
  std::vector<T>& host;
  void* device;
  explicit Buffer(std::vector<T>& h) : host(h), device(device_memory(h.data(), h.size() * sizeof(T))) {}
  Buffer(const Buffer&) = delete;
  ~Buffer() { take_back(host.data(), device, host.size() * sizeof(T)); }
  operator T*() const { return static_cast<T*>(device); }
};

// -------------------------------------------------------------------------------------------------------- kernels
// smem [512 + 128]: 16 bytes, then 4 bytes, for each lane; poisoned before. Lane l copies l % 17 and l % 5 bytes, the
// former through the L1 cache where l is odd.
__global__ void cp_async_kernel(const unsigned char* from, unsigned char* out) {
#if SDGAN_CUDA_ARCH >= 800
  unsigned char* smem = dynamic_smem<unsigned char>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 640; i += 32) smem[i] = 0xee;
  __syncthreads();
  if (lane % 2 == 0) {
    cp_async_16(smem + lane * 16, from + lane * 16, lane % 17);
  } else {
    cp_async_16_cached(smem + lane * 16, from + lane * 16, lane % 17);
  }
  cp_async_commit();
  cp_async_4(smem + 512 + lane * 4, from + 512 + lane * 4, lane % 5);
  cp_async_commit();
  cp_async_wait<1>();
  for (int i = 0; i < 16; ++i) out[lane * 16 + i] = smem[lane * 16 + i];  // a lane's own copies need no barrier
  cp_async_wait<0>();
  __syncthreads();
  for (int i = lane; i < 128; i += 32) out[512 + i] = smem[512 + i];
#endif
}

// Row r of matrix i is at 48 * ((5 * (8 * i + r)) % 32): rows neither in order nor side by side. out [32][4].
SDGAN_HD int ldmatrix_row(int i, int r) { return 24 * (5 * (8 * i + r) % 32); }

template <bool Trans>
__global__ void ldmatrix_kernel(const uint16_t* from, uint32_t* out) {
  uint16_t* smem = dynamic_smem<uint16_t>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 32 * 24; i += 32) smem[i] = from[i];
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4<Trans>(r, smem + ldmatrix_row(lane / 8, lane % 8));
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

struct Tf32 {};

// a [32][4], b [32][2], c [32][4]: registers by lane.
template <class S>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* c) {
#if SDGAN_CUDA_ARCH >= 800
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t fa[4];
  float fc[4];
  for (int i = 0; i < 4; ++i) fa[i] = a[lane * 4 + i], fc[i] = c[lane * 4 + i];
  if constexpr (sizeof(S) == 2) {
    mma_m16n8k16(fc, fa, b[lane * 2], b[lane * 2 + 1], S{});
  } else {
    mma_m16n8k8_tf32(fc, fa, b[lane * 2], b[lane * 2 + 1]);
  }
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = fc[i];
#endif
}

__global__ void to_tf32_kernel(const float* from, uint32_t* out, int n) {
#if SDGAN_CUDA_ARCH >= 800
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) out[i] = to_tf32(from[i]);
#endif
}

// Three phases of 32 arrivals; in each a lane hands its number to the next lane. out [3][32].
__global__ void mbarrier_kernel(int* out) {
#if SDGAN_CUDA_ARCH >= 900
  __shared__ uint64_t b[1];
  __shared__ int given[2][32];
  const int lane = static_cast<int>(threadIdx.x);
  if (lane == 0) {
    mbarrier_init(b, 32);
    mbarrier_init_fence();
  }
  __syncthreads();
  mbarrier_wait(b, 1);
  for (int phase = 0; phase < 3; ++phase) {
    given[phase % 2][lane] = 100 * phase + lane;
    mbarrier_arrive(b);
    mbarrier_wait(b, phase % 2);
    out[phase * 32 + lane] = given[phase % 2][(lane + 1) % 32];
  }
#endif
}

// A box at column x of row y, as it lies in shared memory: out [box_rows * 128].
__global__ void tma_kernel(const __grid_constant__ TensorMap map, int x, int y, int box_rows, unsigned char* out) {
#if SDGAN_CUDA_ARCH >= 900
  unsigned char* smem = dynamic_smem<unsigned char>();
  uint64_t* b = reinterpret_cast<uint64_t*>(smem + box_rows * 128);
  if (threadIdx.x == 0) {
    mbarrier_init(b, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(b, box_rows * 128);
    tma_load_2d(smem, &map, x, y, b);
  }
  mbarrier_wait(b, 0);
  for (int i = static_cast<int>(threadIdx.x); i < box_rows * 128; i += 32) out[i] = smem[i];
#endif
}

// --------------------------------------------------------------------------------------------------------- checks
inline void check_cp_async(Report& report) {
  std::vector<unsigned char> from(640), out(640, 0xdd);
  for (int i = 0; i < 640; ++i) from[i] = static_cast<unsigned char>(1 + i % 255);
  {
    const Buffer in(from), result(out);
    const CudaError error = launch(cp_async_kernel, 1, 32, 640, nullptr, static_cast<const unsigned char*>(in),
                                   static_cast<unsigned char*>(result));
    report.expect(error == 0, "cp_async: error %d", error);
  }
  for (int i = 0; i < 640; ++i) {
    const int size = i < 512 ? 16 : 4, lane = i % 512 / size, copied = lane % (size + 1);
    const int want = i % size < copied ? from[i] : 0;
    report.expect(out[i] == want, "cp_async_%d of %d bytes, byte %d: %d, want %d", size, copied, i % size, out[i],
                  want);
  }
}

template <bool Trans>
void check_ldmatrix(Report& report) {
  std::vector<uint16_t> from(32 * 24);
  std::vector<uint32_t> out(128);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(40000 + i);
  {
    const Buffer in(from);
    const Buffer result(out);
    const CudaError error = launch(ldmatrix_kernel<Trans>, 1, 32, 32 * 24 * 2, nullptr,
                                   static_cast<const uint16_t*>(in), static_cast<uint32_t*>(result));
    report.expect(error == 0, "ldmatrix: error %d", error);
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      uint32_t want = 0;
      for (int e = 0; e < 2; ++e) {
        const int slow = lane >> 2, fast = 2 * (lane & 3) + e;  // row and column; the other way round with Trans
        const int row = Trans ? fast : slow, column = Trans ? slow : fast;
        want |= static_cast<uint32_t>(from[ldmatrix_row(i, row) + column]) << 16 * e;
      }
      const uint32_t got = out[lane * 4 + i];
      report.expect(got == want, "ldmatrix_x4<%d> lane %d register %d: %08x, want %08x", Trans, lane, i, got, want);
    }
  }
}

// Bits of x in a storage type; x must fit exactly, and is not subnormal unless the type is f16.
inline uint32_t float_bits(double x) {
  const float f = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}
inline uint32_t bits_of(double x, bf16) { return float_bits(x) >> 16; }
inline uint32_t bits_of(double x, Tf32) { return float_bits(x); }
inline uint32_t bits_of(double x, f16) {
  const uint32_t sign = x < 0 ? 0x8000u : 0u;
  const double size = std::fabs(x);
  if (size < std::ldexp(1.0, -14)) return sign | static_cast<uint32_t>(std::ldexp(size, 24));
  int exponent;
  const double fraction = std::frexp(size, &exponent);  // in [0.5, 1)
  return sign | static_cast<uint32_t>(exponent + 14) << 10 | static_cast<uint32_t>(std::ldexp(fraction - 0.5, 11));
}

// Where element i of a lane's fragment lies, in the words of the PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type" and "... for mma.m16n8k8", .tf32. Elements, not registers: 16-bit types have two in each.
struct At {
  int row, column;
};
template <class S>
At a_at(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  if constexpr (sizeof(S) == 2) {
    return {(0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8, thread * 2 + (i & 1) + (i < 4 ? 0 : 8)};
  }
  return {i == 0 || i == 2 ? group : group + 8, i == 0 || i == 1 ? thread : thread + 4};
}
template <class S>
At b_at(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  if constexpr (sizeof(S) == 2) return {thread * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
  return {i == 0 ? thread : thread + 4, group};
}
inline At c_at(int lane, int i) { return {i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)}; }

// C += A B with elements value_a(row, k) and so on, which S holds exactly; |got - want| <= tolerance * sum of |terms|.
// `noise` is put into the bits of tf32 that do not count.
template <class S, class ValueA, class ValueB, class ValueC>
void check_mma(Report& report, const char* what, ValueA value_a, ValueB value_b, ValueC value_c, double tolerance,
               uint32_t noise = 0) {
  constexpr int kInRegister = sizeof(S) == 2 ? 2 : 1, kDepth = 8 * kInRegister;
  std::vector<uint32_t> a(128), b(64);
  std::vector<float> c(128);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4 * kInRegister; ++i) {
      const At at = a_at<S>(lane, i);
      a[lane * 4 + i / kInRegister] |= (bits_of(value_a(at.row, at.column), S{}) | noise) << 16 * (i % kInRegister);
    }
    for (int i = 0; i < 2 * kInRegister; ++i) {
      const At at = b_at<S>(lane, i);
      b[lane * 2 + i / kInRegister] |= (bits_of(value_b(at.row, at.column), S{}) | noise) << 16 * (i % kInRegister);
    }
    for (int i = 0; i < 4; ++i) c[lane * 4 + i] = static_cast<float>(value_c(c_at(lane, i).row, c_at(lane, i).column));
  }
  {
    const Buffer da(a), db(b);
    const Buffer dc(c);
    const CudaError error = launch(mma_kernel<S>, 1, 32, 0, nullptr, static_cast<const uint32_t*>(da),
                                   static_cast<const uint32_t*>(db), static_cast<float*>(dc));
    report.expect(error == 0, "%s: error %d", what, error);
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const At at = c_at(lane, i);
      double want = static_cast<float>(value_c(at.row, at.column)), size = std::fabs(want);
      for (int k = 0; k < kDepth; ++k) {
        const double term = value_a(at.row, k) * value_b(k, at.column);
        want += term;
        size += std::fabs(term);
      }
      const double got = c[lane * 4 + i];
      report.expect(std::fabs(got - want) <= tolerance * size, "%s lane %d c[%d]: %.9g, want %.9g", what, lane, i, got,
                    want);
    }
  }
}

template <class S>
void check_mma(Report& report, const char* what) {
  const auto small_a = [](int i, int k) { return static_cast<double>((7 * i + 3 * k) % 17 - 8); };
  const auto small_b = [](int k, int j) { return static_cast<double>((5 * k + 11 * j) % 15 - 7); };
  const auto small_c = [](int i, int j) { return static_cast<double>(100 * i + j) - 800; };
  check_mma<S>(report, what, small_a, small_b, small_c, 0);
  // All sizes of a term: a GPU cuts what is far below the largest.
  const auto wide_a = [](int i, int k) { return std::ldexp(128 + (29 * i + 31 * k) % 128, (i + k) % 5 - 9); };
  const auto wide_b = [](int k, int j) {
    return std::ldexp(128 + (37 * k + 41 * j) % 128, (k + j) % 4 - 9) * (k % 3 - 1);
  };
  const auto zero = [](int, int) { return 0.0; };
  check_mma<S>(report, what, wide_a, wide_b, zero, std::ldexp(1, -20));
  if constexpr (sizeof(S) != 2) check_mma<S>(report, "tf32, lower bits set", small_a, small_b, small_c, 0, 0x1fff);
  if constexpr (std::is_same_v<S, f16>) {
    const auto tiny = [](int i, int k) { return std::ldexp((7 * i + 3 * k) % 17 - 8, -24); };
    check_mma<S>(report, "f16, subnormal", tiny, small_b, zero, 0);
  }
}

inline void check_to_tf32(Report& report) {
  std::vector<float> from;
  for (uint32_t high : {0x3f800000u, 0xbf802000u, 0x00000000u, 0x00002000u, 0x80002000u, 0x007fe000u, 0x7f7fe000u,
                        0xff7fc000u, 0x7f800000u, 0xff800000u, 0x42f6e000u}) {
    for (uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      const uint32_t bits = high | low;
      float x;
      std::memcpy(&x, &bits, sizeof x);
      from.push_back(x);
    }
  }
  std::vector<uint32_t> out(from.size());
  {
    const Buffer in(from);
    const Buffer result(out);
    const CudaError error = launch(to_tf32_kernel, 1, 32, 0, nullptr, static_cast<const float*>(in),
                                   static_cast<uint32_t*>(result), static_cast<int>(from.size()));
    report.expect(error == 0, "to_tf32: error %d", error);
  }
  for (size_t i = 0; i < from.size(); ++i) {
    const double x = from[i];
    double want = x;
    if (std::isfinite(x) && x != 0) {
      int exponent;
      std::frexp(x, &exponent);
      const int step = std::max(exponent - 11, -136);
      want = std::ldexp(std::round(std::ldexp(x, -step)), step);  // round() takes ties away from zero
      if (std::fabs(want) >= std::ldexp(1, 128)) want = std::copysign(INFINITY, x);
    }
    const uint32_t bits = out[i] & ~0x1fffu;
    float got;
    std::memcpy(&got, &bits, sizeof got);
    const bool ok = std::isnan(want) ? std::isnan(got) : static_cast<double>(got) == want;
    report.expect(ok, "to_tf32(%a): %a, want %a", x, static_cast<double>(got), want);
  }
}

inline void check_mbarrier(Report& report) {
  std::vector<int> out(96, -1);
  {
    const Buffer result(out);
    const CudaError error = launch(mbarrier_kernel, 1, 32, 0, nullptr, static_cast<int*>(result));
    report.expect(error == 0, "mbarrier: error %d", error);
  }
  for (int i = 0; i < 96; ++i) {
    const int want = i / 32 * 100 + (i + 1) % 32;
    report.expect(out[i] == want, "mbarrier phase %d lane %d: %d, want %d", i / 32, i % 32, out[i], want);
  }
}

// Elements of `Size` bytes that each differ from their neighbours in every byte.
template <class S>
void check_tma(Report& report, const char* what) {
  constexpr int kRows = 20, kBoxRows = 16, kSize = sizeof(S), kStride = 208 / kSize, kColumns = kStride - 3;
  std::vector<S> x(kRows * kStride);
  unsigned char* bytes = reinterpret_cast<unsigned char*>(x.data());
  for (int i = 0; i < kRows * kStride * kSize; ++i) bytes[i] = static_cast<unsigned char>(1 + i * 7 % 251);
  const std::vector<S> original = x;
  const unsigned char* at = reinterpret_cast<const unsigned char*>(original.data());
  constexpr int kPlaces[][2] = {{0, 0}, {8, 4}, {0, 10}, {kColumns - 5, 3}, {-7, -2}, {3, 19}, {kColumns, 0}, {1, -16}};
  for (const auto& [column, row] : kPlaces) {
    std::vector<unsigned char> out(kBoxRows * 128, 0xdd);
    {
      const Buffer in(x);
      const Buffer result(out);
      TensorMap map;
      CudaError error = make_tensor_map_2d(&map, static_cast<const S*>(in), kRows, kColumns, kStride, kBoxRows);
      report.expect(error == 0, "make_tensor_map_2d: error %d", error);
      error = launch(tma_kernel, 1, 32, kBoxRows * 128 + 8, nullptr, map, column, row, kBoxRows,
                     static_cast<unsigned char*>(result));
      report.expect(error == 0, "tma_load_2d: error %d", error);
    }
    for (int i = 0; i < kBoxRows * 128; ++i) {
      // Chunk p of 16 bytes in row r of the box is chunk p xor r mod 8 of the tensor's row.
      const int r = i / 128, byte = (i % 128 / 16 ^ r % 8) * 16 + i % 16;
      const int tensor_row = row + r, tensor_byte = column * kSize + byte;
      const bool inside = tensor_row >= 0 && tensor_row < kRows && tensor_byte >= 0 && tensor_byte < kColumns * kSize;
      const int want = inside ? at[tensor_row * kStride * kSize + tensor_byte] : 0;
      report.expect(out[i] == want, "%s box at %d, %d, byte %d: %d, want %d", what, column, row, i, out[i], want);
    }
  }
}

// `architecture`: 10 * major + minor of the GPU.
inline Report check_all(int architecture) {
  Report report;
  check_ldmatrix<false>(report);
  check_ldmatrix<true>(report);
  if (architecture >= 80) {
    check_cp_async(report);
    check_mma<bf16>(report, "mma_m16n8k16 of bf16");
    check_mma<f16>(report, "mma_m16n8k16 of f16");
    check_mma<Tf32>(report, "mma_m16n8k8_tf32");
    check_to_tf32(report);
  }
  if (architecture >= 90) {
    check_mbarrier(report);
    check_tma<bf16>(report, "tma_load_2d of bf16");
    check_tma<f16>(report, "tma_load_2d of f16");
    check_tma<float>(report, "tma_load_2d of float");
  }
  return report;
}

}  // namespace sdgan::cuda::probe
