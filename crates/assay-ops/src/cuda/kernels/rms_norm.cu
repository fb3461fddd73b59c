// Root-mean-square normalisation.
#include "prelude.cuh"

// 1 / sqrt(mean(x^2) + eps) of one row, by the whole block.
template <class T>
__device__ float inverse_root(const T* x, u32 width, float eps) {
  float sum = 0;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) {
    float v = value(x[i]);
    sum += v * v;
  }
  return 1.0f / sqrtf(block_sum<ROW_THREADS>(sum) / (float)width + eps);
}

// y = x * inverse_root(x) * weight. One block per row.
template <class T>
__device__ void rms_norm(const T* x, const float* weight, T* y, u32 width, float eps) {
  size_t at = (size_t)blockIdx.x * width;
  float scale = inverse_root(x + at, width, eps);
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) y[at + i] = rounded<T>(value(x[at + i]) * scale * weight[i]);
}
EXPORT_BOTH(rms_norm, ROW_THREADS, (const T* x, const float* weight, T* y, u32 width, float eps),
            (x, weight, y, width, eps))

// With s = inverse_root(x): dx = s (g w) - x s^3 mean(g w x); also writes s of each row. One block per row.
template <class T>
__device__ void rms_norm_grad(const T* x, const float* weight, const T* grad, T* dx, float* scales, u32 width, float eps) {
  size_t at = (size_t)blockIdx.x * width;
  float scale = inverse_root(x + at, width, eps);
  float dot = 0;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) dot += value(grad[at + i]) * weight[i] * value(x[at + i]);
  float pull = block_sum<ROW_THREADS>(dot) * scale * scale / (float)width;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) {
    dx[at + i] = rounded<T>((value(grad[at + i]) * weight[i] - value(x[at + i]) * pull) * scale);
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}
EXPORT_BOTH(rms_norm_grad, ROW_THREADS,
            (const T* x, const float* weight, const T* grad, T* dx, float* scales, u32 width, float eps),
            (x, weight, grad, dx, scales, width, eps))
