// Shared by every kernel: storage types, reductions, and macros that export a kernel.
//
// The same source is compiled twice: by nvcc for a GPU, and by a host compiler with `emulator.h`, which runs a block's
// threads as fibres. Nothing here or in the kernels may depend on which of the two it is.
#pragma once

#ifndef __CUDACC__
#include "emulator.h"
#else
#define REGISTER(NAME)
#endif

typedef unsigned int u32;
typedef unsigned char u8;

// Threads of a block of the kernels that work on rows or values.
const int ROW_THREADS = 256;

// The bits of a bfloat16.
struct bf16 {
  unsigned short bits;
};

__device__ inline float value(float v) { return v; }

__device__ inline float value(bf16 v) { return __uint_as_float((u32)v.bits << 16); }

template <class T>
__device__ inline T rounded(float v);

template <>
__device__ inline float rounded<float>(float v) {
  return v;
}

// Round to nearest, ties to even; NaN stays NaN.
template <>
__device__ inline bf16 rounded<bf16>(float v) {
  u32 bits = __float_as_uint(v);
  bf16 out;
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out.bits = (unsigned short)((bits >> 16) | 0x40u);
  } else {
    out.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
  return out;
}

// Index of this thread in a one-dimensional grid.
__device__ inline size_t thread_index() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }

// Sums of 2, 4, ... LANES neighbouring lanes, in each of them.
template <int LANES, class V>
__device__ inline V lanes_sum(V v) {
  for (int mask = LANES / 2; mask > 0; mask /= 2) v += __shfl_xor_sync(0xffffffffu, v, mask);
  return v;
}

template <int LANES>
__device__ inline float lanes_max(float v) {
  for (int mask = LANES / 2; mask > 0; mask /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, mask));
  return v;
}

// The sum over a block of THREADS threads, in each of them.
template <int THREADS, class V>
__device__ inline V block_sum(V v) {
  __shared__ V parts[THREADS / 32];
  v = lanes_sum<32>(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  V sum = 0;
  for (int i = 0; i < THREADS / 32; i++) sum += parts[i];
  return sum;
}

template <int THREADS>
__device__ inline float block_max(float v) {
  __shared__ float parts[THREADS / 32];
  v = lanes_max<32>(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float most = parts[0];
  for (int i = 1; i < THREADS / 32; i++) most = fmaxf(most, parts[i]);
  return most;
}

// A kernel by its name; the rest is its body.
#define EXPORT(NAME, THREADS, PARAMETERS, ...)                            \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME PARAMETERS { \
    __VA_ARGS__;                                                          \
  }                                                                       \
  REGISTER(NAME)

// A kernel for both storage types of activations: NAME_f32 and NAME_bf16, from a template over T.
#define EXPORT_BOTH(NAME, THREADS, PARAMETERS, ARGUMENTS)          \
  namespace NAME##_of_f32 {                                        \
  typedef float T;                                                 \
  EXPORT(NAME##_f32, THREADS, PARAMETERS, NAME<T> ARGUMENTS)       \
  }                                                                \
  namespace NAME##_of_bf16 {                                       \
  typedef bf16 T;                                                  \
  EXPORT(NAME##_bf16, THREADS, PARAMETERS, NAME<T> ARGUMENTS)      \
  }
