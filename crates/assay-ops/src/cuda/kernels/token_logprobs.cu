// Rows of logits: log-probability of a target, entropy, their gradients.
#include "prelude.cuh"

const int LOGIT_THREADS = 256;

// Log-probability of the row's target, the row's log-normaliser and its entropy. One block per row.
__device__ void token_logprobs(const float* logits, const u32* targets, float* logprobs, float* normalisers,
                               float* entropies, u32 words) {
  const float* row = logits + (size_t)blockIdx.x * words;
  // Sums of e^(l - most) and of e^(l - most) (l - most) over this thread's logits so far.
  float most = -INFINITY, sum = 0, weighted = 0;
  for (u32 i = threadIdx.x; i < words; i += LOGIT_THREADS) {
    float l = row[i];
    if (l > most) {
      float shift = most - l, keep = sum == 0.0f ? 0.0f : expf(shift);
      weighted = sum == 0.0f ? 0.0f : (weighted + sum * shift) * keep;
      sum *= keep;
      most = l;
    }
    float e = expf(l - most);
    sum += e;
    weighted += e == 0.0f ? 0.0f : e * (l - most);
  }
  float all = block_max<LOGIT_THREADS>(most);
  float shift = most - all, keep = sum == 0.0f ? 0.0f : expf(shift);
  weighted = keep == 0.0f ? 0.0f : (weighted + sum * shift) * keep;
  sum = block_sum<LOGIT_THREADS>(sum * keep);
  weighted = block_sum<LOGIT_THREADS>(weighted);
  if (threadIdx.x == 0) {
    float normaliser = all + logf(sum);
    logprobs[blockIdx.x] = row[targets[blockIdx.x]] - normaliser;
    normalisers[blockIdx.x] = normaliser;
    entropies[blockIdx.x] = logf(sum) - weighted / sum;
  }
}
EXPORT(token_logprobs_f32, LOGIT_THREADS,
       (const float* logits, const u32* targets, float* logprobs, float* normalisers, float* entropies, u32 words),
       token_logprobs(logits, targets, logprobs, normalisers, entropies, words))

// Gradient at the logits: grad (onehot - softmax). One block per row.
template <class T>
__device__ void token_logprobs_grad(const float* logits, const u32* targets, const float* normalisers, const float* grad,
                                    T* dlogits, u32 words) {
  size_t at = (size_t)blockIdx.x * words;
  float normaliser = normalisers[blockIdx.x], g = grad[blockIdx.x];
  u32 target = targets[blockIdx.x];
  for (u32 i = threadIdx.x; i < words; i += LOGIT_THREADS) {
    float d = -g * expf(logits[at + i] - normaliser);
    dlogits[at + i] = rounded<T>(i == target ? d + g : d);
  }
}
EXPORT_BOTH(token_logprobs_grad, LOGIT_THREADS,
            (const float* logits, const u32* targets, const float* normalisers, const float* grad, T* dlogits, u32 words),
            (logits, targets, normalisers, grad, dlogits, words))
