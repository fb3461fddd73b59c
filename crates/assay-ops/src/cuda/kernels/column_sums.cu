// Sums over the rows of a matrix.
#include "prelude.cuh"

// Rows whose products one thread of `column_sums` adds.
const u32 SUM_ROWS = 64;

// parts[c][j] = sum over the rows i of chunk c of factors[i] a[i][j] b[i][j]; null factors or b count as one.
// Grid: columns by chunks of SUM_ROWS rows. One thread per column.
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

// sums[j] = parts[0][j] + parts[1][j] + ... One thread per column.
__device__ void sum_parts(const float* parts, float* sums, u32 count, u32 width) {
  size_t j = thread_index();
  if (j >= width) return;
  float sum = 0;
  for (u32 part = 0; part < count; part++) sum += parts[(size_t)part * width + j];
  sums[j] = sum;
}
EXPORT(sum_parts_f32, ROW_THREADS, (const float* parts, float* sums, u32 count, u32 width),
       sum_parts(parts, sums, count, width))
