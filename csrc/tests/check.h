// Assertions and guarded memory for the C++ tests. A test file is compiled once per instruction set, like a kernel, so
// what the files share is only declared here (main.cpp defines it): an inline function compiled for AVX-512 could
// otherwise stand in for the generic one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/scalar.h"

namespace sdgan::testing {

// Reports a failed check and goes on; the process then ends with exit code 1. The first few of each run are printed.
void expect(bool ok, const char* what, const char* file, int line);
// got must be within `ulps` float spacings of want; NaN equals NaN, an infinity only itself.
void expect_ulps(double input, float got, double want, double ulps, const char* file, int line);
// |got - want| <= tolerance * max(1, |want|); NaN equals NaN, an infinity only itself.
void expect_close(double input, double got, double want, double tolerance, const char* file, int line);

// Memory that ends where an unmapped page begins: touching one byte more is a segmentation fault. Never freed.
void* guarded(size_t bytes);

// Scalar bfloat16 and half, written differently from the code under test.
double from_bf16(bf16 x);
bf16 to_bf16(double x);
double from_f16(f16 x);
f16 to_f16(double x);

}  // namespace sdgan::testing

#define EXPECT(condition) ::sdgan::testing::expect(condition, #condition, __FILE__, __LINE__)
#define EXPECT_ULPS(input, got, want, ulps) ::sdgan::testing::expect_ulps(input, got, want, ulps, __FILE__, __LINE__)
#define EXPECT_CLOSE(input, got, want, tolerance) \
  ::sdgan::testing::expect_close(input, got, want, tolerance, __FILE__, __LINE__)
