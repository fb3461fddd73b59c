// Attention over packed batches, forward and backward, after FlashAttention: scores exist for one tile at a time.
//
// A tile of queries is (first row, rows, first range, end of ranges, first row of its own span): each query sees all rows of
// the ranges, which are its prompt and the rows it shares, and its own span up to itself. A range is (first row, end row).
// The queries that see a key are contiguous from its own row to the end of its span, which for a prompt's key is the end of
// its group; each later completion that shares the key adds its own span.
//
// A block has 128 threads: thread t works on rows t / 8, t / 8 + 16, ... of a tile and on columns t % 8, t % 8 + 8, ...
// D is head_dim rounded up to 32, 64 or 128; values beyond it are zero. Each thread has R rows and C columns of scores.
#include "prelude.cuh"

const u32 ATTENTION_THREADS = 128;

// Copies `count` rows of one head into a tile; the rest of the tile is zero.
template <int ROWS, int D, class T>
__device__ void load_tile(const T* from, size_t first, u32 count, u32 stride, u32 dim, float (*tile)[D + 1]) {
  for (u32 i = threadIdx.x; i < ROWS * D; i += ATTENTION_THREADS) {
    u32 row = i / D, d = i % D;
    tile[row][d] = row < count && d < dim ? value(from[(first + row) * stride + d]) : 0.0f;
  }
}

// The inner products of this thread's R rows of a and C rows of b.
template <int R, int C, int D>
__device__ void inner_products(const float (*a)[D + 1], const float (*b)[D + 1], float (*products)[C]) {
  u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) products[i][j] = 0;
#pragma unroll 8
  for (int d = 0; d < D; d++) {
    float left[R], right[C];
    for (int i = 0; i < R; i++) left[i] = a[ty + 16 * i][d];
    for (int j = 0; j < C; j++) right[j] = b[tx + 8 * j][d];
    for (int i = 0; i < R; i++)
      for (int j = 0; j < C; j++) products[i][j] = fmaf(left[i], right[j], products[i][j]);
  }
}

// sums += weights rows, for this thread's R rows of weights and D / 8 columns of rows.
template <int R, int COLUMNS, int D>
__device__ void add_weighted(const float (*weights)[COLUMNS + 1], const float (*rows)[D + 1], float (*sums)[D / 8]) {
  u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll 4
  for (int k = 0; k < COLUMNS; k++) {
    float left[R];
    for (int i = 0; i < R; i++) left[i] = weights[ty + 16 * i][k];
    for (int c = 0; c < D / 8; c++) {
      float right = rows[k][tx + 8 * c];
      for (int i = 0; i < R; i++) sums[i][c] = fmaf(left[i], right, sums[i][c]);
    }
  }
}

// The result and each row's log of the sum of exponentials of its scores, [heads, total]. Grid: tiles by heads.
template <class T, int D, int R, int C>
__device__ void attention(const T* q, const T* k, const T* v, T* out, float* normalisers, const u32* tiles,
                          const u32* ranges, u32 total, u32 heads, u32 kv_heads, u32 dim, float scale) {
  const int ROWS = 16 * R, KEYS = 8 * C;
  __shared__ float queries[ROWS][D + 1], keys[KEYS][D + 1], weights[ROWS][KEYS + 1];
  const u32* tile = tiles + 5 * blockIdx.x;
  u32 first = tile[0], rows = tile[1], head = blockIdx.y, kv_head = head / (heads / kv_heads);
  u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8, width = heads * dim, kv_width = kv_heads * dim;
  load_tile<ROWS, D>(q + head * dim, first, rows, width, dim, queries);
  float most[R], sum[R], sums[R][D / 8];
  for (int i = 0; i < R; i++) {
    most[i] = -INFINITY;
    sum[i] = 0;
    for (int c = 0; c < D / 8; c++) sums[i][c] = 0;
  }
  for (u32 part = tile[2]; part <= tile[3]; part++) {
    bool own = part == tile[3];
    u32 end = own ? first + rows : ranges[2 * part + 1];
    for (u32 start = own ? tile[4] : ranges[2 * part]; start < end; start += KEYS) {
      u32 count = end - start < KEYS ? end - start : KEYS;
      __syncthreads();
      load_tile<KEYS, D>(k + kv_head * dim, start, count, kv_width, dim, keys);
      __syncthreads();
      float scores[R][C];
      inner_products<R, C, D>(queries, keys, scores);
      for (int i = 0; i < R; i++) {
        u32 row = ty + 16 * i;
        float now = most[i];
        for (int j = 0; j < C; j++) {
          u32 key = tx + 8 * j;
          bool seen = key < count && (!own || start + key <= first + row);
          scores[i][j] = seen ? scores[i][j] * scale : -INFINITY;
          now = fmaxf(now, scores[i][j]);
        }
        now = lanes_max<8>(now);
        float keep = most[i] == now ? 1.0f : expf(most[i] - now), own_sum = 0;
        for (int j = 0; j < C; j++) {
          float p = scores[i][j] == -INFINITY ? 0.0f : expf(scores[i][j] - now);
          weights[row][tx + 8 * j] = p;
          own_sum += p;
        }
        sum[i] = sum[i] * keep + lanes_sum<8>(own_sum);
        for (int c = 0; c < D / 8; c++) sums[i][c] *= keep;
        most[i] = now;
      }
      __syncthreads();
      load_tile<KEYS, D>(v + kv_head * dim, start, count, kv_width, dim, keys);
      __syncthreads();
      add_weighted<R, KEYS, D>(weights, keys, sums);
    }
  }
  for (int i = 0; i < R; i++) {
    u32 row = ty + 16 * i;
    if (row >= rows) continue;
    for (int c = 0; c < D / 8; c++) {
      u32 d = tx + 8 * c;
      if (d < dim) out[(size_t)(first + row) * width + head * dim + d] = rounded<T>(sums[i][c] / sum[i]);
    }
    if (tx == 0) normalisers[(size_t)head * total + first + row] = most[i] + logf(sum[i]);
  }
}

// deltas[head][row] = rowsum(out * grad). Eight lanes per row and head.
template <class T>
__device__ void attention_deltas(const T* out, const T* grad, float* deltas, u32 total, u32 heads, u32 dim) {
  size_t index = thread_index() / 8;
  bool inside = index < (size_t)total * heads;
  size_t row = index / heads, head = index % heads;
  float sum = 0;
  for (u32 d = threadIdx.x % 8; inside && d < dim; d += 8) {
    sum += value(out[row * heads * dim + head * dim + d]) * value(grad[row * heads * dim + head * dim + d]);
  }
  sum = lanes_sum<8>(sum);
  if (inside && threadIdx.x % 8 == 0) deltas[head * total + row] = sum;
}
EXPORT_BOTH(attention_deltas, ATTENTION_THREADS,
            (const T* out, const T* grad, float* deltas, u32 total, u32 heads, u32 dim),
            (out, grad, deltas, total, heads, dim))

// Gradient at the queries. Grid: tiles by heads.
template <class T, int D, int R, int C>
__device__ void attention_grad_queries(const T* q, const T* k, const T* v, const T* grad, const float* normalisers,
                                       const float* deltas, T* dq, const u32* tiles, const u32* ranges, u32 total,
                                       u32 heads, u32 kv_heads, u32 dim, float scale) {
  const int ROWS = 16 * R, KEYS = 8 * C;
  __shared__ float queries[ROWS][D + 1], grads[ROWS][D + 1], keys[KEYS][D + 1], values[KEYS][D + 1];
  __shared__ float dscores[ROWS][KEYS + 1];
  const u32* tile = tiles + 5 * blockIdx.x;
  u32 first = tile[0], rows = tile[1], head = blockIdx.y, kv_head = head / (heads / kv_heads);
  u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8, width = heads * dim, kv_width = kv_heads * dim;
  load_tile<ROWS, D>(q + head * dim, first, rows, width, dim, queries);
  load_tile<ROWS, D>(grad + head * dim, first, rows, width, dim, grads);
  float normaliser[R], delta[R], sums[R][D / 8];
  for (int i = 0; i < R; i++) {
    u32 row = ty + 16 * i < rows ? ty + 16 * i : 0;
    normaliser[i] = normalisers[(size_t)head * total + first + row];
    delta[i] = deltas[(size_t)head * total + first + row];
    for (int c = 0; c < D / 8; c++) sums[i][c] = 0;
  }
  for (u32 part = tile[2]; part <= tile[3]; part++) {
    bool own = part == tile[3];
    u32 end = own ? first + rows : ranges[2 * part + 1];
    for (u32 start = own ? tile[4] : ranges[2 * part]; start < end; start += KEYS) {
      u32 count = end - start < KEYS ? end - start : KEYS;
      __syncthreads();
      load_tile<KEYS, D>(k + kv_head * dim, start, count, kv_width, dim, keys);
      load_tile<KEYS, D>(v + kv_head * dim, start, count, kv_width, dim, values);
      __syncthreads();
      float scores[R][C], pulls[R][C];
      inner_products<R, C, D>(queries, keys, scores);
      inner_products<R, C, D>(grads, values, pulls);
      for (int i = 0; i < R; i++) {
        for (int j = 0; j < C; j++) {
          u32 row = ty + 16 * i, key = tx + 8 * j;
          bool seen = row < rows && key < count && (!own || start + key <= first + row);
          float p = seen ? expf(scores[i][j] * scale - normaliser[i]) : 0.0f;
          dscores[row][key] = p * (pulls[i][j] - delta[i]) * scale;
        }
      }
      __syncthreads();
      add_weighted<R, KEYS, D>(dscores, keys, sums);
    }
  }
  for (int i = 0; i < R; i++) {
    u32 row = ty + 16 * i;
    for (int c = 0; c < D / 8; c++) {
      u32 d = tx + 8 * c;
      if (row < rows && d < dim) dq[(size_t)(first + row) * width + head * dim + d] = rounded<T>(sums[i][c]);
    }
  }
}

// Parts of the gradients at keys and values. A work item is (first key, keys, first query, end of queries): a tile of keys,
// or its first ones, and some of the queries that may see them. parts are [items, ROWS, kv_heads * dim], zero for keys that
// are not of the item. Grid: items by key-value heads.
template <class T, int D, int R, int C>
__device__ void attention_grad_keys(const T* q, const T* k, const T* v, const T* grad, const float* normalisers,
                                    const float* deltas, float* key_parts, float* value_parts, const u32* items, u32 total,
                                    u32 heads, u32 kv_heads, u32 dim, float scale) {
  const int ROWS = 16 * R, QUERIES = 8 * C;
  __shared__ float keys[ROWS][D + 1], values[ROWS][D + 1], queries[QUERIES][D + 1], grads[QUERIES][D + 1];
  __shared__ float weights[ROWS][QUERIES + 1], dscores[ROWS][QUERIES + 1];
  const u32* item = items + 4 * blockIdx.x;
  u32 first = item[0], rows = item[1], kv_head = blockIdx.y, sharing = heads / kv_heads;
  u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8, width = heads * dim, kv_width = kv_heads * dim;
  load_tile<ROWS, D>(k + kv_head * dim, first, rows, kv_width, dim, keys);
  load_tile<ROWS, D>(v + kv_head * dim, first, rows, kv_width, dim, values);
  float key_sums[R][D / 8], value_sums[R][D / 8];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < D / 8; c++) key_sums[i][c] = value_sums[i][c] = 0;
  for (u32 head = kv_head * sharing; head < (kv_head + 1) * sharing; head++) {
    for (u32 start = item[2]; start < item[3]; start += QUERIES) {
      u32 count = item[3] - start < QUERIES ? item[3] - start : QUERIES;
      __syncthreads();
      load_tile<QUERIES, D>(q + head * dim, start, count, width, dim, queries);
      load_tile<QUERIES, D>(grad + head * dim, start, count, width, dim, grads);
      __syncthreads();
      float scores[R][C], pulls[R][C];
      inner_products<R, C, D>(keys, queries, scores);
      inner_products<R, C, D>(values, grads, pulls);
      for (int j = 0; j < C; j++) {
        u32 query = tx + 8 * j;
        size_t at = (size_t)head * total + start + (query < count ? query : 0);
        float normaliser = normalisers[at], delta = deltas[at];
        for (int i = 0; i < R; i++) {
          u32 row = ty + 16 * i;
          bool seen = row < rows && query < count && first + row <= start + query;
          float p = seen ? expf(scores[i][j] * scale - normaliser) : 0.0f;
          weights[row][query] = p;
          dscores[row][query] = p * (pulls[i][j] - delta) * scale;
        }
      }
      __syncthreads();
      add_weighted<R, QUERIES, D>(weights, grads, value_sums);
      add_weighted<R, QUERIES, D>(dscores, queries, key_sums);
    }
  }
  for (int i = 0; i < R; i++) {
    u32 row = ty + 16 * i;
    for (int c = 0; c < D / 8; c++) {
      u32 d = tx + 8 * c;
      if (d >= dim) continue;
      size_t at = ((size_t)blockIdx.x * ROWS + row) * kv_width + kv_head * dim + d;
      key_parts[at] = key_sums[i][c];
      value_parts[at] = value_sums[i][c];
    }
  }
}

// Sums the parts of each tile of keys: a tile is (first key, keys, first item, end of items). Grid: tiles by ROWS rows.
template <class T>
__device__ void attention_sum_parts(const float* parts, const u32* tiles, T* sums, u32 tile_rows, u32 kv_width) {
  const u32* tile = tiles + 4 * blockIdx.x;
  u32 row = blockIdx.y;
  if (row >= tile[1]) return;
  for (u32 j = threadIdx.x; j < kv_width; j += ATTENTION_THREADS) {
    float sum = 0;
    for (u32 item = tile[2]; item < tile[3]; item++) sum += parts[((size_t)item * tile_rows + row) * kv_width + j];
    sums[(size_t)(tile[0] + row) * kv_width + j] = rounded<T>(sum);
  }
}
EXPORT_BOTH(attention_sum_parts, ATTENTION_THREADS,
            (const float* parts, const u32* tiles, T* sums, u32 tile_rows, u32 kv_width),
            (parts, tiles, sums, tile_rows, kv_width))

// One head size: forward, gradient at queries, parts of the gradients at keys and values, for both storage types.
#define EXPORT_ATTENTION(SUFFIX, TYPE, D, R, C)                                                                          \
  EXPORT(attention_##D##_##SUFFIX, ATTENTION_THREADS,                                                                    \
         (const TYPE* q, const TYPE* k, const TYPE* v, TYPE* out, float* normalisers, const u32* tiles,                  \
          const u32* ranges, u32 total, u32 heads, u32 kv_heads, u32 dim, float scale),                                  \
         attention<TYPE, D, R, C>(q, k, v, out, normalisers, tiles, ranges, total, heads, kv_heads, dim, scale))         \
  EXPORT(attention_grad_queries_##D##_##SUFFIX, ATTENTION_THREADS,                                                       \
         (const TYPE* q, const TYPE* k, const TYPE* v, const TYPE* grad, const float* normalisers, const float* deltas,  \
          TYPE* dq, const u32* tiles, const u32* ranges, u32 total, u32 heads, u32 kv_heads, u32 dim, float scale),      \
         attention_grad_queries<TYPE, D, R, C>(q, k, v, grad, normalisers, deltas, dq, tiles, ranges, total, heads,      \
                                               kv_heads, dim, scale))                                                              \
  EXPORT(attention_grad_keys_##D##_##SUFFIX, ATTENTION_THREADS,                                                          \
         (const TYPE* q, const TYPE* k, const TYPE* v, const TYPE* grad, const float* normalisers, const float* deltas,  \
          float* key_parts, float* value_parts, const u32* items, u32 total, u32 heads, u32 kv_heads, u32 dim,           \
          float scale),                                                                                                  \
         attention_grad_keys<TYPE, D, R, C>(q, k, v, grad, normalisers, deltas, key_parts, value_parts, items, total,    \
                                            heads, kv_heads, dim, scale))

EXPORT_ATTENTION(f32, float, 32, 2, 4)
EXPORT_ATTENTION(bf16, bf16, 32, 2, 4)
EXPORT_ATTENTION(f32, float, 64, 2, 4)
EXPORT_ATTENTION(bf16, bf16, 64, 2, 4)
EXPORT_ATTENTION(f32, float, 128, 1, 2)
EXPORT_ATTENTION(bf16, bf16, 128, 1, 2)
