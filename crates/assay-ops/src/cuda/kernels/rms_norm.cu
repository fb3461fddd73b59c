// Operations on rows: normalisation, rotation, gating, gathering, column sums, the linear reward head.
#include "prelude.cuh"

const int ROW_THREADS = 256;
// Rows whose products one thread of `column_sums` adds.
const u32 SUM_ROWS = 64;

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

// y = x * inverse_root(x) * weight. A block a row.
template <class T>
__device__ void rms_norm(const T* x, const float* weight, T* y, u32 width, float eps) {
  size_t at = (size_t)blockIdx.x * width;
  float scale = inverse_root(x + at, width, eps);
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) y[at + i] = rounded<T>(value(x[at + i]) * scale * weight[i]);
}
EXPORT_BOTH(rms_norm, ROW_THREADS, (const T* x, const float* weight, T* y, u32 width, float eps),
            (x, weight, y, width, eps))

// With s = inverse_root(x): dx = s (g w) - x s^3 mean(g w x); also writes s of each row. A block a row.
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

// (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of each head. A thread a pair.
template <class T>
__device__ void rope(const T* x, const u32* positions, const float* cosines, const float* sines, T* y, u32 pairs,
                     u32 width, u32 half, float sign) {
  size_t index = thread_index();
  if (index >= pairs) return;
  u32 row = index / (width / 2), rest = index % (width / 2);
  size_t first = (size_t)row * width + rest / half * (2 * half) + rest % half;
  size_t angle = (size_t)positions[row] * half + rest % half;
  float c = cosines[angle], s = sines[angle] * sign, a = value(x[first]), b = value(x[first + half]);
  y[first] = rounded<T>(a * c - b * s);
  y[first + half] = rounded<T>(b * c + a * s);
}
EXPORT_BOTH(rope, ROW_THREADS,
            (const T* x, const u32* positions, const float* cosines, const float* sines, T* y, u32 pairs, u32 width,
             u32 half, float sign),
            (x, positions, cosines, sines, y, pairs, width, half, sign))

// silu(gate) * up. A thread a value.
template <class T>
__device__ void swiglu(const T* gate, const T* up, T* y, u32 count) {
  size_t i = thread_index();
  if (i >= count) return;
  float g = value(gate[i]);
  y[i] = rounded<T>(g / (1.0f + expf(-g)) * value(up[i]));
}
EXPORT_BOTH(swiglu, ROW_THREADS, (const T* gate, const T* up, T* y, u32 count), (gate, up, y, count))

// With s = sigmoid(gate): d up = g gate s; d gate = g up (s + gate s (1 - s)). A thread a value.
template <class T>
__device__ void swiglu_grad(const T* gate, const T* up, const T* grad, T* dgate, T* dup, u32 count) {
  size_t i = thread_index();
  if (i >= count) return;
  float v = value(gate[i]), g = value(grad[i]), s = 1.0f / (1.0f + expf(-v));
  dup[i] = rounded<T>(g * (v * s));
  dgate[i] = rounded<T>(g * value(up[i]) * (s + v * s * (1.0f - s)));
}
EXPORT_BOTH(swiglu_grad, ROW_THREADS, (const T* gate, const T* up, const T* grad, T* dgate, T* dup, u32 count),
            (gate, up, grad, dgate, dup, count))

// y = x + bias, row by row. A thread a value.
template <class T>
__device__ void add_bias(const T* x, const float* bias, T* y, u32 count, u32 width) {
  size_t i = thread_index();
  if (i < count) y[i] = rounded<T>(value(x[i]) + bias[i % width]);
}
EXPORT_BOTH(add_bias, ROW_THREADS, (const T* x, const float* bias, T* y, u32 count, u32 width),
            (x, bias, y, count, width))

// y = x + branch. A thread a value.
template <class T>
__device__ void add(const T* x, const T* branch, T* y, u32 count) {
  size_t i = thread_index();
  if (i < count) y[i] = rounded<T>(value(x[i]) + value(branch[i]));
}
EXPORT_BOTH(add, ROW_THREADS, (const T* x, const T* branch, T* y, u32 count), (x, branch, y, count))

// Rows of a table named by ids. A block a row.
template <class T>
__device__ void gather(const T* table, const u32* ids, T* rows, u32 width) {
  size_t to = (size_t)blockIdx.x * width, from = (size_t)ids[blockIdx.x] * width;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) rows[to + i] = table[from + i];
}
EXPORT_BOTH(gather, ROW_THREADS, (const T* table, const u32* ids, T* rows, u32 width), (table, ids, rows, width))

// The gradient of `gather`: row id[u] of dtable is the sum of grad's rows order[starts[u]..starts[u + 1]], in that order.
// A block a distinct id; other rows are left alone.
template <class T>
__device__ void gather_grad(const T* grad, const u32* ids, const u32* starts, const u32* order, T* dtable, u32 width) {
  u32 start = starts[blockIdx.x], end = starts[blockIdx.x + 1];
  size_t to = (size_t)ids[blockIdx.x] * width;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) {
    float sum = 0;
    for (u32 k = start; k < end; k++) sum += value(grad[(size_t)order[k] * width + i]);
    dtable[to + i] = rounded<T>(sum);
  }
}
EXPORT_BOTH(gather_grad, ROW_THREADS,
            (const T* grad, const u32* ids, const u32* starts, const u32* order, T* dtable, u32 width),
            (grad, ids, starts, order, dtable, width))

// parts[c][j] = sum over the rows i of chunk c of factors[i] a[i][j] b[i][j]; null factors or b count as one.
// Grid: columns by chunks of SUM_ROWS rows. A thread a column.
template <class T>
__device__ void column_sums(const T* a, const T* b, const float* factors, float* parts, u32 rows, u32 width) {
  size_t j = thread_index();
  if (j >= width) return;
  u32 end = (blockIdx.y + 1) * SUM_ROWS < rows ? (blockIdx.y + 1) * SUM_ROWS : rows;
  float sum = 0;
  for (u32 i = blockIdx.y * SUM_ROWS; i < end; i++) {
    float v = value(a[(size_t)i * width + j]);
    if (b) v *= value(b[(size_t)i * width + j]);
    sum += factors ? factors[i] * v : v;
  }
  parts[(size_t)blockIdx.y * width + j] = sum;
}
EXPORT_BOTH(column_sums, ROW_THREADS,
            (const T* a, const T* b, const float* factors, float* parts, u32 rows, u32 width),
            (a, b, factors, parts, rows, width))

// sums[j] = parts[0][j] + parts[1][j] + ... A thread a column.
__device__ void sum_parts(const float* parts, float* sums, u32 count, u32 width) {
  size_t j = thread_index();
  if (j >= width) return;
  float sum = 0;
  for (u32 part = 0; part < count; part++) sum += parts[(size_t)part * width + j];
  sums[j] = sum;
}
EXPORT(sum_parts_f32, ROW_THREADS, (const float* parts, float* sums, u32 count, u32 width),
       sum_parts(parts, sums, count, width))

// weight . hidden + bias of each row. A block a row.
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

// out[i][j] = factors[i] weight[j]. A thread a value.
template <class T>
__device__ void outer(const float* factors, const float* weight, T* out, u32 count, u32 width) {
  size_t i = thread_index();
  if (i < count) out[i] = rounded<T>(factors[i / width] * weight[i % width]);
}
EXPORT_BOTH(outer, ROW_THREADS, (const float* factors, const float* weight, T* out, u32 count, u32 width),
            (factors, weight, out, count, width))
