// Drawing a token from each row of logits.
#include "prelude.cuh"

const u32 DRAW_THREADS = 512;

// How tokens are drawn; an inverse temperature of zero takes the likeliest token.
struct Draw {
  float inverse_temperature;
  double top_p;
  u32 top_k;
};

__device__ inline float draw_weight(float logit, float most, Draw draw) {
  if (draw.inverse_temperature == 0.0f) return logit == most ? 1.0f : 0.0f;
  return expf((logit - most) * draw.inverse_temperature);
}

// The kept tokens of a row: weights above `threshold`, and the first `ties` (in the order of tokens) that equal it.
struct Kept {
  float threshold;
  u32 ties;
};

// Number and mass of the weights that are at least `low`, or above it.
__device__ inline void weights_from(const float* row, u32 words, float most, Draw draw, float low, bool equal, double* mass,
                                    u32* number) {
  double sum = 0;
  u32 count = 0;
  for (u32 i = threadIdx.x; i < words; i += DRAW_THREADS) {
    float w = draw_weight(row[i], most, draw);
    if (w > low || (equal && w == low)) {
      sum += (double)w;
      count++;
    }
  }
  *mass = block_sum<DRAW_THREADS>(sum);
  *number = block_sum<DRAW_THREADS>(count);
}

// The k heaviest tokens, then the fewest of those whose mass reaches top_p: by bisection over the bits of the weights.
__device__ inline Kept restricted(const float* row, u32 words, float most, Draw draw) {
  Kept kept = {0.0f, words};
  double mass, above;
  u32 number;
  if (draw.top_k > 0 && draw.top_k < words) {
    u32 low = 0, high = 0x3f800000u;
    while (low < high) {
      u32 middle = low + (high - low + 1) / 2;
      weights_from(row, words, most, draw, __uint_as_float(middle), true, &mass, &number);
      if (number >= draw.top_k) low = middle;
      else high = middle - 1;
    }
    kept.threshold = __uint_as_float(low);
    weights_from(row, words, most, draw, kept.threshold, false, &above, &number);
    kept.ties = draw.top_k - number;
  }
  if (draw.top_p < 1.0) {
    Kept all = kept;
    weights_from(row, words, most, draw, all.threshold, false, &above, &number);
    double needed = draw.top_p * (above + (double)all.ties * (double)all.threshold);
    u32 low = __float_as_uint(all.threshold), high = 0x3f800000u;
    while (low < high) {
      u32 middle = low + (high - low + 1) / 2;
      weights_from(row, words, most, draw, __uint_as_float(middle), true, &mass, &number);
      if (mass >= needed) low = middle;
      else high = middle - 1;
    }
    kept.threshold = __uint_as_float(low);
    weights_from(row, words, most, draw, kept.threshold, false, &above, &number);
    double ties = kept.threshold > 0.0f ? ceil((needed - above) / (double)kept.threshold) : 1.0;
    u32 most_ties = kept.threshold == all.threshold ? all.ties : words;
    kept.ties = ties < 1.0 ? 1 : ties < (double)most_ties ? (u32)ties : most_ties;
  }
  return kept;
}

// Draws a token from each row of logits by inversion over the token ids, as the CPU does: the first kept token at which the
// cumulated weight exceeds uniform * total. A row without a finite maximum gives token 0xffffffff. One block per row.
__device__ void draw_tokens(const float* logits, const double* uniforms, u32* tokens, float* sampling_logprobs,
                            float* policy_logprobs, u32 words, Draw draw) {
  __shared__ double masses[DRAW_THREADS];
  __shared__ u32 counts[DRAW_THREADS];
  __shared__ double total, before;
  __shared__ u32 chosen;
  const float* row = logits + (size_t)blockIdx.x * words;
  float most = -INFINITY, bad = 0;
  for (u32 i = threadIdx.x; i < words; i += DRAW_THREADS) {
    most = fmaxf(most, row[i]);
    if (row[i] != row[i]) bad = 1;
  }
  most = block_max<DRAW_THREADS>(most);
  bad = block_max<DRAW_THREADS>(bad);
  if (bad != 0 || !(fabsf(most) <= 3.402823466e38f)) {
    if (threadIdx.x == 0) tokens[blockIdx.x] = 0xffffffffu;
    return;
  }
  double policy = 0;
  for (u32 i = threadIdx.x; i < words; i += DRAW_THREADS) policy += (double)expf(row[i] - most);
  policy = block_sum<DRAW_THREADS>(policy);
  bool greedy = draw.inverse_temperature == 0.0f;
  Kept kept = {1.0f, 1};
  if (!greedy) kept = restricted(row, words, most, draw);
  u32 chunk = (words + DRAW_THREADS - 1) / DRAW_THREADS, low = threadIdx.x * chunk;
  u32 high = low + chunk < words ? low + chunk : words;
  u32 ties = 0;
  for (u32 i = low; i < high; i++) ties += draw_weight(row[i], most, draw) == kept.threshold;
  counts[threadIdx.x] = ties;
  __syncthreads();
  if (threadIdx.x == 0) {
    u32 sum = 0;
    for (u32 t = 0; t < DRAW_THREADS; t++) {
      u32 own = counts[t];
      counts[t] = sum;
      sum += own;
    }
  }
  __syncthreads();
  u32 rank = counts[threadIdx.x];
  double mass = 0;
  for (u32 i = low; i < high; i++) {
    float w = draw_weight(row[i], most, draw);
    if (w > kept.threshold || (w == kept.threshold && rank++ < kept.ties)) mass += (double)w;
  }
  masses[threadIdx.x] = mass;
  __syncthreads();
  if (threadIdx.x == 0) {
    total = 0;
    for (u32 t = 0; t < DRAW_THREADS; t++) total += masses[t];
    double sum = 0;
    for (u32 t = 0; t < DRAW_THREADS; t++) {
      if (masses[t] <= 0) continue;
      chosen = t;
      before = sum;
      sum += masses[t];
      if (sum > uniforms[blockIdx.x] * total) break;
    }
  }
  __syncthreads();
  if (threadIdx.x != chosen) return;
  rank = counts[threadIdx.x];
  double sum = before;
  u32 token = low;
  for (u32 i = low; i < high; i++) {
    float w = draw_weight(row[i], most, draw);
    bool inside = w > kept.threshold || (w == kept.threshold && rank++ < kept.ties);
    if (!inside || w <= 0.0f) continue;
    token = i;
    sum += (double)w;
    if (sum > uniforms[blockIdx.x] * total) break;
  }
  tokens[blockIdx.x] = token;
  sampling_logprobs[blockIdx.x] =
      greedy ? 0.0f : (float)((double)((row[token] - most) * draw.inverse_temperature) - log(total));
  policy_logprobs[blockIdx.x] = (float)((double)(row[token] - most) - log(policy));
}
EXPORT(draw_tokens_f32, DRAW_THREADS,
       (const float* logits, const double* uniforms, u32* tokens, float* sampling_logprobs, float* policy_logprobs,
        u32 words, float inverse_temperature, double top_p, u32 top_k),
       Draw draw = {inverse_temperature, top_p, top_k};
       draw_tokens(logits, uniforms, tokens, sampling_logprobs, policy_logprobs, words, draw))
