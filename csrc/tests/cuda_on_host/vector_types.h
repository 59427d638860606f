// Part of cuda_host.h: the vector types of CUDA, with its alignments.
#pragma once

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define CUHOST_VECTOR2(T, Name, bytes) \
  struct alignas(bytes) Name {         \
    T x, y;                            \
  };                                   \
  inline Name make_##Name(T x, T y) { return {x, y}; }
#define CUHOST_VECTOR4(T, Name, bytes) \
  struct alignas(bytes) Name {         \
    T x, y, z, w;                      \
  };                                   \
  inline Name make_##Name(T x, T y, T z, T w) { return {x, y, z, w}; }

CUHOST_VECTOR2(int, int2, 8)
CUHOST_VECTOR2(unsigned, uint2, 8)
CUHOST_VECTOR2(float, float2, 8)
CUHOST_VECTOR2(double, double2, 16)
CUHOST_VECTOR4(int, int4, 16)
CUHOST_VECTOR4(unsigned, uint4, 16)
CUHOST_VECTOR4(float, float4, 16)
#undef CUHOST_VECTOR2
#undef CUHOST_VECTOR4
