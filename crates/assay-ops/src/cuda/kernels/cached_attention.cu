// Decoding: the key-value cache, attention of one query a sequence, and drawing a token.
#include "prelude.cuh"

const u32 CACHE_THREADS = 128;
const u32 DRAW_THREADS = 512;

// A row of the table of sequences is (first and end row of the prompt, slot, tokens in the cache, this one included).

// Writes each sequence's newest keys and values into its slot. A block a sequence.
template <class T>
__device__ void cache_append(const T* k, const T* v, T* keys, T* values, const u32* sequences, u32 capacity, u32 width) {
  const u32* sequence = sequences + 4 * blockIdx.x;
  size_t to = ((size_t)sequence[2] * capacity + sequence[3] - 1) * width, from = (size_t)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += CACHE_THREADS) {
    keys[to + i] = k[from + i];
    values[to + i] = v[from + i];
  }
}
EXPORT_BOTH(cache_append, CACHE_THREADS,
            (const T* k, const T* v, T* keys, T* values, const u32* sequences, u32 capacity, u32 width),
            (k, v, keys, values, sequences, capacity, width))

// Attention of one query row a sequence over its prompt and its cache. Eight lanes share a key, sixteen keys a block are
// looked at together, each with a softmax of its own; these are joined at the end. Grid: sequences by heads.
template <class T, int D>
__device__ void cached_attention(const T* q, const T* prompt_k, const T* prompt_v, const T* keys, const T* values, T* out,
                                 const u32* sequences, u32 capacity, u32 heads, u32 kv_heads, u32 dim, float scale) {
  __shared__ float mosts[16], totals[16], weighted[16][D + 1];
  const u32* sequence = sequences + 4 * blockIdx.x;
  u32 lane = threadIdx.x % 8, group = threadIdx.x / 8, head = blockIdx.y, width = kv_heads * dim;
  u32 offset = head / (heads / kv_heads) * dim, low = lane * (D / 8);
  const T* query = q + ((size_t)blockIdx.x * heads + head) * dim;
  float own[D / 8], sums[D / 8], most = -INFINITY, total = 0;
  for (int c = 0; c < D / 8; c++) {
    own[c] = low + c < dim ? value(query[low + c]) * scale : 0.0f;
    sums[c] = 0;
  }
  for (int cached = 0; cached < 2; cached++) {
    size_t base = cached ? (size_t)sequence[2] * capacity : sequence[0];
    u32 count = cached ? sequence[3] : sequence[1] - sequence[0];
    const T* all_keys = cached ? keys : prompt_k;
    const T* all_values = cached ? values : prompt_v;
    for (u32 start = 0; start < count; start += 16) {
      bool inside = start + group < count;
      size_t at = (base + (inside ? start + group : 0)) * width + offset + low;
      float score = 0;
      for (int c = 0; c < D / 8; c++) {
        if (low + c < dim) score = fmaf(own[c], value(all_keys[at + c]), score);
      }
      score = lanes_sum<8>(score);
      if (!inside) continue;
      float now = fmaxf(most, score), keep = expf(most - now), p = expf(score - now);
      total = total * keep + p;
      for (int c = 0; c < D / 8; c++) {
        float v = low + c < dim ? value(all_values[at + c]) : 0.0f;
        sums[c] = fmaf(p, v, sums[c] * keep);
      }
      most = now;
    }
  }
  for (int c = 0; c < D / 8; c++) weighted[group][low + c] = sums[c];
  if (lane == 0) {
    mosts[group] = most;
    totals[group] = total;
  }
  __syncthreads();
  if (threadIdx.x >= dim) return;
  float all = mosts[0];
  for (int g = 1; g < 16; g++) all = fmaxf(all, mosts[g]);
  float sum = 0, normaliser = 0;
  for (int g = 0; g < 16; g++) {
    float factor = expf(mosts[g] - all);
    sum += factor * weighted[g][threadIdx.x];
    normaliser += factor * totals[g];
  }
  out[((size_t)blockIdx.x * heads + head) * dim + threadIdx.x] = rounded<T>(sum / normaliser);
}

#define EXPORT_CACHED(SUFFIX, TYPE, D)                                                                                    \
  EXPORT(cached_attention_##D##_##SUFFIX, CACHE_THREADS,                                                                  \
         (const TYPE* q, const TYPE* prompt_k, const TYPE* prompt_v, const TYPE* keys, const TYPE* values, TYPE* out,     \
          const u32* sequences, u32 capacity, u32 heads, u32 kv_heads, u32 dim, float scale),                             \
         cached_attention<TYPE, D>(q, prompt_k, prompt_v, keys, values, out, sequences, capacity, heads, kv_heads, dim,   \
                                   scale))
EXPORT_CACHED(f32, float, 32)
EXPORT_CACHED(bf16, bf16, 32)
EXPORT_CACHED(f32, float, 64)
EXPORT_CACHED(bf16, bf16, 64)
EXPORT_CACHED(f32, float, 128)
EXPORT_CACHED(bf16, bf16, 128)

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

// What is kept of a row: weights above `threshold`, and the first `ties` (in the order of tokens) that equal it.
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
// cumulated weight exceeds uniform * total. A row without a finite maximum gives token 0xffffffff. A block a row.
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
