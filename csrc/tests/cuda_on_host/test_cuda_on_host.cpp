// The stand-in for CUDA itself: sample kernels against double, on odd sizes, in several orders of threads, with the
// race check; and planted bugs, each run in a child process, each caught with its message.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/check.h"
#include "tests/cuda_on_host/samples.h"

namespace sdgan::generic {

void test_cuda_on_host();

namespace {

using namespace cuda;
using testing::guarded;

template <class T>
concept HasAtomicAdd = requires(T* p, T v) { atomicAdd(p, v); };
static_assert(HasAtomicAdd<unsigned long long> && !HasAtomicAdd<float> && !HasAtomicAdd<double>);

struct Checked {  // with the race check and in this order of threads, while it lives
  explicit Checked(uint32_t shuffle) { cuhost::options = {true, shuffle}; }
  ~Checked() { cuhost::options = {}; }
};

double wave(int64_t i, int salt) { return std::sin(0.7 * static_cast<double>(i) + salt); }

double to_double(bf16 x) { return testing::from_bf16(x); }
double to_double(f16 x) { return testing::from_f16(x); }
double to_double(float x) { return x; }

template <class S>
S stored(double x);
template <>
bf16 stored<bf16>(double x) {
  return testing::to_bf16(x);
}
template <>
f16 stored<f16>(double x) {
  return testing::to_f16(x);
}
template <>
float stored<float>(double x) {  // of tf32's 11 bits, so that its products are exact
  return static_cast<float>(std::round(x * 1024) / 1024);
}

template <class S>
S* matrix(int rows, int columns, int stride, int salt) {  // ends where the last row does; NaN between the rows
  const size_t count = rows * columns == 0 ? 0 : static_cast<size_t>(rows - 1) * stride + columns;
  S* data = static_cast<S*>(std::aligned_alloc(16, (count * sizeof(S) + 16) / 16 * 16));
  std::memset(data, 0xff, count * sizeof(S));
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) data[i * stride + j] = stored<S>(wave(int64_t{i} * columns + j, salt));
  }
  return data;
}

void check_sum(int64_t n) {
  float* x = static_cast<float*>(guarded(n * sizeof(float)));
  double want = 0, first = 0;
  for (int64_t i = 0; i < n; ++i) want += x[i] = static_cast<float>(wave(i, 1));
  for (uint32_t shuffle : {0u, 1u, 99u}) {
    const Checked checked(shuffle);
    double partial[kSampleBlocks], total = -1;
    EXPECT(launch_sample_sum(x, n, partial, &total, nullptr) == 0);
    EXPECT_CLOSE(static_cast<double>(n), total, want, 1e-12);
    if (shuffle == 0) first = total;
    EXPECT(std::memcmp(&first, &total, sizeof total) == 0);
  }
}

template <class S>
void check_gemm(int m, int n, int k, uint32_t shuffle) {
  const Checked checked(shuffle);
  constexpr int kPack = 16 / sizeof(S);
  const int lda = (k + kPack) / kPack * kPack, ldb = (n + kPack - 1) / kPack * kPack, ldc = n + 3;
  const S *a = matrix<S>(m, k, lda, 1), *b = matrix<S>(k, n, ldb, 2);
  std::vector<float> c(static_cast<size_t>(m) * ldc, -7.0f);
  EXPECT(launch_sample_gemm(m, n, k, a, lda, b, ldb, c.data(), ldc, nullptr) == 0);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < ldc; ++j) {
      double want = j < n ? 0 : -7;
      for (int q = 0; j < n && q < k; ++q) want += to_double(a[i * lda + q]) * to_double(b[q * ldb + j]);
      EXPECT_CLOSE(i, c[i * ldc + j], want, 1e-5);
    }
  }
  std::free(const_cast<S*>(a));
  std::free(const_cast<S*>(b));
}

void check_column_sums(int rows, int columns, uint32_t shuffle) {
  cuhost::options.shuffle = shuffle;
  const int stride = (columns + 7) / 8 * 8;
  bf16* x = matrix<bf16>(rows, columns, stride, 3);
  std::vector<float> sums(columns);
  EXPECT(launch_sample_column_sums(x, rows, columns, stride, sums.data(), TmaBug::none, nullptr) == 0);
  for (int j = 0; j < columns; ++j) {
    double want = 0;
    for (int i = 0; i < rows; ++i) want += to_double(x[i * stride + j]);
    EXPECT_CLOSE(j, sums[j], want, 1e-5 * std::sqrt(rows));
  }
  std::free(x);
  cuhost::options = {};
}

void check_tour() {
  std::vector<int> out(40 * kTourResults);
  unsigned counts[4] = {};
  EXPECT(launch_sample_tour(out.data(), counts, nullptr) == 0);
  for (int t = 0; t < 40; ++t) {
    const int* r = &out[t * kTourResults];
    const int lane = t % 32, size = t < 32 ? 32 : 8, base = t - lane;  // lanes 8.. of the second warp are not there
    const auto at = [&](int from) { return from >= 0 && from < size ? base + from : t; };
    EXPECT(r[0] == at(lane - 3));
    EXPECT(r[1] == (lane % 8 + 3 < 8 ? t + 3 : t));
    EXPECT(r[2] == base + (lane ^ 5));
    EXPECT(r[3] == base + lane / 8 * 8 + 1);
    EXPECT(static_cast<unsigned>(r[4]) == (0x49249249u & (t < 32 ? ~0u : 0xffu)));
    EXPECT(r[5] == 1 && r[6] == 1);
    EXPECT(r[7] == base + lane % 2);
    EXPECT(r[8] == 8 && r[9] == 1 && r[10] == 1);
    EXPECT(r[11] == 8 + 100 * (31 - lane) + 10000 * (lane + 1));
    EXPECT(r[12] == 0x3fc00000 + 2);
    EXPECT(r[13] == 510);
    EXPECT(r[14] == 4 + 2 + 6 && r[15] == r[14] + 1);
  }
  unsigned long long wide;
  std::memcpy(&wide, counts + 2, sizeof wide);
  EXPECT(counts[0] == 80 && static_cast<int>(counts[1]) == -40 && wide == 40ull << 31);
}

void check_staging() {
  uint16_t in[64], out[64] = {};
  for (int i = 0; i < 64; ++i) in[i] = static_cast<uint16_t>(i * i);
  for (uint32_t shuffle : {0u, 5u, 6u}) {
    const Checked checked(shuffle);
    EXPECT(launch_sample_staging(in, out, nullptr) == 0);
    for (int t = 0; t < 64; ++t) EXPECT(out[t] == static_cast<uint16_t>(in[t ^ 1] + in[t / 32 * 32]));
  }
}

void nothing(int* calls) { ++*calls; }

void check_limits() {
  int calls = 0;
  const auto error = [&](dim3 grid, dim3 block, size_t smem) {
    return launch(nothing, grid, block, smem, nullptr, &calls);
  };
  EXPECT(error(3, dim3(4, 2), 227 << 10) == cudaSuccess && calls == 24);
  EXPECT(error(1, 1025, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(1, dim3(32, 33), 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(1, dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(0, 32, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(1, 0, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(0x80000000u, 1, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(dim3(1, 65536), 1, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(dim3(1, 1, 65536), 1, 0) == cudaErrorInvalidConfiguration);
  EXPECT(error(1, 32, (227 << 10) + 1) == cudaErrorInvalidValue);
  EXPECT(calls == 24);
  cuhost::options.shuffle = 3;  // every block once, in any order
  EXPECT(error(dim3(5, 3, 2), 2, 0) == cudaSuccess && calls == 84);
  cuhost::options = {};
}

void check_threads() {
  std::vector<std::thread> threads;
  std::vector<double> totals(4);
  for (double& total : totals) {
    threads.emplace_back([&total] {
      std::vector<float> x(5000, 1.0f);
      double partial[kSampleBlocks];
      for (int i = 0; i < 5; ++i) launch_sample_sum(x.data(), 5000, partial, &total, nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (double total : totals) EXPECT(total == 5000);
}

// Runs body in a child process: its exit code, -1 where it was killed, and what it wrote to stderr.
template <class Body>
std::pair<int, std::string> in_child(Body body) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    alarm(60);
    _exit(body());
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

constexpr int kWrong = 42;  // the child's exit code for wrong results

int run_bug(Bug bug) {
  cuhost::options.race_check = true;
  alignas(16) static float in[64];
  float out[64] = {};
  for (int i = 0; i < 64; ++i) in[i] = static_cast<float>(i);
  for (int twice = 0; twice < 2; ++twice) {
    if (launch_sample_bug(bug, in, out, nullptr) != 0) return 3;
  }
  for (int i = 0; i < 64; ++i) {
    if (out[i] != static_cast<float>(64 - i)) return kWrong;
  }
  return 0;
}

int run_bug(TmaBug bug) {
  const int rows = bug == TmaBug::early_end || bug == TmaBug::no_wait ? 64 : 1000;
  std::vector<bf16> x(rows * 8, testing::to_bf16(1));
  float sums[8] = {};
  if (launch_sample_column_sums(x.data(), rows, 8, 8, sums, bug, nullptr) != 0) return 3;
  return sums[0] == static_cast<float>(rows) ? 0 : kWrong;
}

// `message`: what stderr must have; null for a wrong result and no message.
template <class AnyBug>
void check_bug(AnyBug bug, const char* message) {
  const auto [code, text] = in_child([&] { return run_bug(bug); });
  const bool ok = message == nullptr ? code == kWrong : text.find(message) != std::string::npos && code != 0;
  if (!ok) std::fprintf(stderr, "bug %d: exit code %d, %s\n", static_cast<int>(bug), code, text.c_str());
  EXPECT(ok);
}

void check_bugs() {
  EXPECT(in_child([] { return run_bug(Bug::none); }).first == 0);
  EXPECT(in_child([] { return run_bug(TmaBug::none); }).first == 0);
  check_bug(Bug::early_exit, "deadlock");
  check_bug(Bug::two_barriers, "divergent __syncthreads() at ");
  check_bug(Bug::no_barrier, "shared-memory race at ");
  check_bug(Bug::write_after_read, "shared-memory race at ");
  check_bug(Bug::add_assign, "shared-memory race at ");
  check_bug(Bug::no_wait, nullptr);
  check_bug(Bug::misaligned_copy, "misaligned shared address at ");
  check_bug(Bug::misaligned_row, "misaligned row at ");
  check_bug(Bug::lane_missing, "__shfl_xor_sync of lanes ffffffff at ");
  check_bug(Bug::divergent_mma, "divergent instruction for a whole warp at ");
  check_bug(Bug::index_overrun, "index past shared memory at ");
  check_bug(Bug::shared_not_written, nullptr);
  check_bug(Bug::nested_launch, "a kernel cannot launch a kernel");
  check_bug(TmaBug::no_arrive, "mbarrier_wait of parity 1 at ");
  check_bug(TmaBug::no_wait, nullptr);
  check_bug(TmaBug::early_end, "the block ended before its TMA load landed at ");
#ifdef CUHOST_ASAN
  check_bug(Bug::pointer_overrun, "heap-buffer-overflow");
#endif
}

template <class S>
void check_gemms() {
  constexpr int kSizes[][3] = {{1, 1, 1},     {64, 64, 32}, {1, 7, 3}, {65, 63, 31},
                               {17, 129, 33}, {10, 50, 77}, {5, 3, 0}, {128, 70, 65}};
  for (const auto& [m, n, k] : kSizes) check_gemm<S>(m, n, k, static_cast<uint32_t>(m) / 2);
}

}  // namespace

void test_cuda_on_host() {
  for (int64_t n : {0, 1, 31, 33, 255, 257, 4097, 30003}) check_sum(n);
  check_tour();
  check_staging();
  check_gemms<bf16>();
  check_gemms<f16>();
  check_gemms<float>();
  for (uint32_t shuffle : {0u, 3u}) {
    check_column_sums(1, 1, shuffle);
    check_column_sums(63, 65, shuffle);
    check_column_sums(300, 201, shuffle);
  }
  check_limits();
  check_threads();
  check_bugs();
}

}  // namespace sdgan::generic
