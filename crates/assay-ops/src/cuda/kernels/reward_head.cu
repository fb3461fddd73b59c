// The linear reward head.
#include "prelude.cuh"

// weight . hidden + bias of each row. One block per row.
template <class T>
__device__ void reward_head(const T* hidden, const float* weight, const float* bias, float* logits, u32 width) {
  size_t at = (size_t)blockIdx.x * width;
  float sum = 0;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) sum += value(hidden[at + i]) * weight[i];
  sum = block_sum<ROW_THREADS>(sum);
  if (threadIdx.x == 0) logits[blockIdx.x] = sum + bias[0];
}
EXPORT_BOTH(reward_head, ROW_THREADS,
            (const T* hidden, const float* weight, const float* bias, float* logits, u32 width),
            (hidden, weight, bias, logits, width))

// out[i][j] = factors[i] weight[j]. One thread per value.
template <class T>
__device__ void outer(const float* factors, const float* weight, T* out, u32 count, u32 width) {
  size_t i = thread_index();
  if (i < count) out[i] = rounded<T>(factors[i / width] * weight[i % width]);
}
EXPORT_BOTH(outer, ROW_THREADS, (const float* factors, const float* weight, T* out, u32 count, u32 width),
            (factors, weight, out, count, width))
