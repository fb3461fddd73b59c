// The bias of a linear map; its products are cuBLAS's.
#include "prelude.cuh"

// y = x + bias, row by row. One thread per value.
template <class T>
__device__ void add_bias(const T* x, const float* bias, T* y, u32 count, u32 width) {
  size_t i = thread_index();
  if (i < count) y[i] = rounded<T>(value(x[i]) + bias[i % width]);
}
EXPORT_BOTH(add_bias, ROW_THREADS, (const T* x, const float* bias, T* y, u32 count, u32 width),
            (x, bias, y, count, width))
