// Rotary position embedding.
#include "prelude.cuh"

// (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of each head. One thread per pair.
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
