// Expanding the block formats of GGUF files, value by value.
#include "prelude.cuh"

const u32 EXPAND_THREADS = 256;

// A half-precision number from its two bytes.
__device__ inline float half_at(const u8* bytes) {
  u32 bits = bytes[0] | (u32)bytes[1] << 8, sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u;
  u32 fraction = bits & 1023u;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
  float v = (float)fraction * (1.0f / 16777216.0f);
  return sign ? -v : v;
}

// A format says how many values and bytes a block has, and value i of a block.
struct q4_0 {
  enum { VALUES = 32, BYTES = 18 };
  static __device__ float at(const u8* b, u32 i) {
    int q = i < 16 ? b[2 + i] & 15 : b[2 + i - 16] >> 4;
    return (float)(q - 8) * half_at(b);
  }
};

struct q4_1 {
  enum { VALUES = 32, BYTES = 20 };
  static __device__ float at(const u8* b, u32 i) {
    int q = i < 16 ? b[4 + i] & 15 : b[4 + i - 16] >> 4;
    return (float)q * half_at(b) + half_at(b + 2);
  }
};

// The fifth bit of value i, from the four bytes at b.
__device__ inline int fifth_bit(const u8* b, u32 i) { return (b[i / 8] >> (i % 8) & 1) << 4; }

struct q5_0 {
  enum { VALUES = 32, BYTES = 22 };
  static __device__ float at(const u8* b, u32 i) {
    int q = i < 16 ? b[6 + i] & 15 : b[6 + i - 16] >> 4;
    return (float)((q | fifth_bit(b + 2, i)) - 16) * half_at(b);
  }
};

struct q5_1 {
  enum { VALUES = 32, BYTES = 24 };
  static __device__ float at(const u8* b, u32 i) {
    int q = i < 16 ? b[8 + i] & 15 : b[8 + i - 16] >> 4;
    return (float)(q | fifth_bit(b + 4, i)) * half_at(b) + half_at(b + 2);
  }
};

struct q8_0 {
  enum { VALUES = 32, BYTES = 34 };
  static __device__ float at(const u8* b, u32 i) { return (float)(signed char)b[2 + i] * half_at(b); }
};

struct q2_k {
  enum { VALUES = 256, BYTES = 84 };
  static __device__ float at(const u8* b, u32 i) {
    u32 half = i / 128, quarter = i % 128 / 32, l = i % 32;
    int q = b[16 + half * 32 + l] >> (2 * quarter) & 3, scale = b[half * 8 + quarter * 2 + l / 16];
    return half_at(b + 80) * (float)(scale & 15) * (float)q - half_at(b + 82) * (float)(scale >> 4);
  }
};

struct q3_k {
  enum { VALUES = 256, BYTES = 110 };
  static __device__ float at(const u8* b, u32 i) {
    u32 half = i / 128, quarter = i % 128 / 32, l = i % 32, s = half * 8 + quarter * 2 + l / 16;
    const u8* scales = b + 96;
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
    int q = b[32 + half * 32 + l] >> (2 * quarter) & 3, lifted = b[l] >> (half * 4 + quarter) & 1;
    return half_at(b + 108) * (float)((low | high << 4) - 32) * (float)(q - (lifted ? 0 : 4));
  }
};

// The six-bit scale and minimum of part s of a q4_k or q5_k block.
__device__ inline void scale_and_minimum(const u8* scales, u32 s, int* scale, int* minimum) {
  if (s < 4) {
    *scale = scales[s] & 63;
    *minimum = scales[s + 4] & 63;
  } else {
    *scale = (scales[s + 4] & 15) | scales[s - 4] >> 6 << 4;
    *minimum = scales[s + 4] >> 4 | scales[s] >> 6 << 4;
  }
}

struct q4_k {
  enum { VALUES = 256, BYTES = 144 };
  static __device__ float at(const u8* b, u32 i) {
    int scale, minimum;
    scale_and_minimum(b + 4, i / 32, &scale, &minimum);
    u8 pair = b[16 + i / 64 * 32 + i % 32];
    int q = i % 64 < 32 ? pair & 15 : pair >> 4;
    return half_at(b) * (float)scale * (float)q - half_at(b + 2) * (float)minimum;
  }
};

struct q5_k {
  enum { VALUES = 256, BYTES = 176 };
  static __device__ float at(const u8* b, u32 i) {
    int scale, minimum;
    scale_and_minimum(b + 4, i / 32, &scale, &minimum);
    u8 pair = b[48 + i / 64 * 32 + i % 32];
    int q = (i % 64 < 32 ? pair & 15 : pair >> 4) | (b[16 + i % 32] >> (i / 32) & 1) << 4;
    return half_at(b) * (float)scale * (float)q - half_at(b + 2) * (float)minimum;
  }
};

struct q6_k {
  enum { VALUES = 256, BYTES = 210 };
  static __device__ float at(const u8* b, u32 i) {
    u32 half = i / 128, quarter = i % 128 / 32, l = i % 32;
    u8 pair = b[half * 64 + (quarter & 1) * 32 + l];
    int q = (quarter < 2 ? pair & 15 : pair >> 4) | (b[128 + half * 32 + l] >> (2 * quarter) & 3) << 4;
    return half_at(b + 208) * (float)(signed char)b[192 + half * 8 + quarter * 2 + l / 16] * (float)(q - 32);
  }
};

struct plain_f16 {
  enum { VALUES = 1, BYTES = 2 };
  static __device__ float at(const u8* b, u32) { return half_at(b); }
};

struct plain_bf16 {
  enum { VALUES = 1, BYTES = 2 };
  static __device__ float at(const u8* b, u32) { return __uint_as_float((u32)b[0] << 16 | (u32)b[1] << 24); }
};

struct plain_f32 {
  enum { VALUES = 1, BYTES = 4 };
  static __device__ float at(const u8* b, u32) {
    return __uint_as_float(b[0] | (u32)b[1] << 8 | (u32)b[2] << 16 | (u32)b[3] << 24);
  }
};

// Row ids[i] of a matrix of blocks, or row i without ids. One block per row.
template <class T, class FORMAT>
__device__ void expand(const u8* blocks, const u32* ids, T* rows, u32 width) {
  size_t row = ids ? ids[blockIdx.x] : blockIdx.x;
  const u8* from = blocks + row * (width / FORMAT::VALUES) * FORMAT::BYTES;
  T* to = rows + (size_t)blockIdx.x * width;
  for (u32 i = threadIdx.x; i < width; i += EXPAND_THREADS) {
    to[i] = rounded<T>(FORMAT::at(from + (size_t)(i / FORMAT::VALUES) * FORMAT::BYTES, i % FORMAT::VALUES));
  }
}

#define EXPORT_FORMAT(FORMAT)                                                                       \
  EXPORT(expand_##FORMAT##_f32, EXPAND_THREADS, (const u8* blocks, const u32* ids, float* rows, u32 width), \
         expand<float, FORMAT>(blocks, ids, rows, width))                                           \
  EXPORT(expand_##FORMAT##_bf16, EXPAND_THREADS, (const u8* blocks, const u32* ids, bf16* rows, u32 width), \
         expand<bf16, FORMAT>(blocks, ids, rows, width))
EXPORT_FORMAT(q4_0)
EXPORT_FORMAT(q4_1)
EXPORT_FORMAT(q5_0)
EXPORT_FORMAT(q5_1)
EXPORT_FORMAT(q8_0)
EXPORT_FORMAT(q2_k)
EXPORT_FORMAT(q3_k)
EXPORT_FORMAT(q4_k)
EXPORT_FORMAT(q5_k)
EXPORT_FORMAT(q6_k)
EXPORT_FORMAT(plain_f16)
EXPORT_FORMAT(plain_bf16)
EXPORT_FORMAT(plain_f32)
