// The key-value cache, and attention of one query per sequence.
#include "prelude.cuh"

const u32 CACHE_THREADS = 128;

// A row of the table of sequences is (first and end row of the prompt, slot, tokens in the cache, this one included).

// Writes each sequence's newest keys and values into its slot. One block per sequence.
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

// Attention of one query row per sequence over its prompt and its cache. Eight lanes share a key; a block processes
// sixteen keys at a time, each with its own softmax, and combines the softmaxes at the end. Grid: sequences by heads.
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
