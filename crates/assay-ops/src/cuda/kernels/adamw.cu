// The AdamW step and the sums it needs.
#include "prelude.cuh"

const int STEP_THREADS = 256;

struct Constants {
  float clip_scale, decay, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, step_size;
};

// One AdamW step; finite[0] becomes 0 when a new value is not finite. One thread per value.
__device__ void adamw(float* param, const float* grad, float* first, float* second, u32* finite, u32 count, Constants c) {
  size_t i = thread_index();
  if (i >= count) return;
  float g = grad[i] * c.clip_scale, p = param[i] * c.decay;
  float m = fmaf(g - first[i], c.one_minus_beta1, first[i]);
  float v = fmaf(g * g, c.one_minus_beta2, second[i] * c.beta2);
  p -= c.step_size * (m / (sqrtf(v) / c.root_correction2 + c.eps));
  param[i] = p;
  first[i] = m;
  second[i] = v;
  // Threads that store at the same time store the same value.
  if (!(fabsf(p) <= 3.402823466e38f)) finite[0] = 0;
}
EXPORT(adamw_f32, STEP_THREADS,
       (float* param, const float* grad, float* first, float* second, u32* finite, u32 count, float clip_scale,
        float decay, float one_minus_beta1, float beta2, float one_minus_beta2, float root_correction2, float eps,
        float step_size),
       Constants c = {clip_scale, decay, one_minus_beta1, beta2, one_minus_beta2,
                      root_correction2, eps, step_size};
       adamw(param, grad, first, second, finite, count, c))

// Sums of squares of 4096 values each, in double precision. One block per part.
__device__ void squares(const float* values, double* parts, u32 count) {
  size_t start = (size_t)blockIdx.x * 4096;
  double sum = 0;
  for (size_t i = start + threadIdx.x; i < start + 4096 && i < count; i += STEP_THREADS) {
    sum += (double)values[i] * (double)values[i];
  }
  sum = block_sum<STEP_THREADS>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
EXPORT(squares_f32, STEP_THREADS, (const float* values, double* parts, u32 count), squares(values, parts, count))
