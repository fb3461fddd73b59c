// The gated activation.
#include "prelude.cuh"

// silu(gate) * up. One thread per value.
template <class T>
__device__ void swiglu(const T* gate, const T* up, T* y, u32 count) {
  size_t i = thread_index();
  if (i >= count) return;
  float g = value(gate[i]);
  y[i] = rounded<T>(g / (1.0f + expf(-g)) * value(up[i]));
}
EXPORT_BOTH(swiglu, ROW_THREADS, (const T* gate, const T* up, T* y, u32 count), (gate, up, y, count))

// With s = sigmoid(gate): d up = g gate s; d gate = g up (s + gate s (1 - s)). One thread per value.
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
