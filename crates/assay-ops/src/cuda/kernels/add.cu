// The sum at the end of a residual branch.
#include "prelude.cuh"

// y = x + branch. One thread per value.
template <class T>
__device__ void add(const T* x, const T* branch, T* y, u32 count) {
  size_t i = thread_index();
  if (i < count) y[i] = rounded<T>(value(x[i]) + value(branch[i]));
}
EXPORT_BOTH(add, ROW_THREADS, (const T* x, const T* branch, T* y, u32 count), (x, branch, y, count))
