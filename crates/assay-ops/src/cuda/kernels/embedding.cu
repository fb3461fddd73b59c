// Rows of an embedding table.
#include "prelude.cuh"

// Rows of a table named by ids. One block per row.
template <class T>
__device__ void gather(const T* table, const u32* ids, T* rows, u32 width) {
  size_t to = (size_t)blockIdx.x * width, from = (size_t)ids[blockIdx.x] * width;
  for (u32 i = threadIdx.x; i < width; i += ROW_THREADS) rows[to + i] = table[from + i];
}
EXPORT_BOTH(gather, ROW_THREADS, (const T* table, const u32* ids, T* rows, u32 width), (table, ids, rows, width))

// The gradient of `gather`: row id[u] of dtable is the sum of grad's rows order[starts[u]..starts[u + 1]], in that order.
// One block per distinct id; other rows are not changed.
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
