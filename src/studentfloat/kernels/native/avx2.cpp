// AVX2 with FMA and F16C: a line of 64 bytes is two registers of 8 rows.

#include <immintrin.h>

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"
#include "generic.inl"
#include "codec.inl"

namespace {

#define ALWAYS_INLINE inline __attribute__((always_inline))

ALWAYS_INLINE __m256 load_scales(const Matrix& m, int64_t at, int half) {
  int64_t place = at * kRows + half * 8;
  if (m.scale_type == ScaleType::float32)
    return _mm256_loadu_ps(static_cast<const float*>(m.scales) + place);
  __m128i halves = _mm_loadu_si128(
      reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(m.scales) + place));
  if (m.scale_type == ScaleType::float16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

ALWAYS_INLINE __m256i load_codes(const uint8_t* codes, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * half));
}

ALWAYS_INLINE __m256i load_word(const void* at) {
  int32_t word;
  __builtin_memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

// Sixteen floats by the lowest 4 bits of each lane, in two halves.
struct FloatTable {
  __m256 low, high;

  ALWAYS_INLINE __m256 of(__m256i codes) const {
    __m256 below = _mm256_permutevar8x32_ps(low, codes);
    __m256 above = _mm256_permutevar8x32_ps(high, codes);
    // Bit 3 of the code, moved to the sign, chooses.
    return _mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  }
};

// How an arithmetic in floats reads its table and its activations.
struct Float32 {
  using Value = float;
  static ALWAYS_INLINE FloatTable table(const Matrix& m) {
    return {_mm256_loadu_ps(m.table), _mm256_loadu_ps(m.table + 8)};
  }
  static ALWAYS_INLINE float activation(const float* line, int k) { return line[k]; }
};

struct Bfloat16 {
  using Value = uint16_t;
  static ALWAYS_INLINE FloatTable table(const Matrix& m) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = float_of_bfloat16(m.table_bfloat16[i]);
    return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
  }
  static ALWAYS_INLINE float activation(const uint16_t* line, int k) {
    return float_of_bfloat16(line[k % 4 * 2 + k / 4]);
  }
};

ALWAYS_INLINE void store(const Matrix& m, int64_t g, int half, float* out, __m256 total) {
  int64_t rows = m.rows - g * kRows - half * 8;
  float* to = out + g * kRows + half * 8;
  if (rows >= 8) {
    _mm256_storeu_ps(to, total);
  } else if (rows > 0) {
    float values[8];
    _mm256_storeu_ps(values, total);
    for (int64_t r = 0; r < rows; ++r) to[r] = values[r];
  }
}

// J columns of a tile of `width`, beginning at column `column`, times half a group.
template <class Kind, int J>
void float_half(const Matrix& m, const Activations& x, int64_t column, int64_t width, float* out,
                int64_t stride, int64_t g, int half) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  int64_t place = column % kTile;
  auto values = static_cast<const typename Kind::Value*>(x.values) +
                (column - place) * m.lines * kCodes + place * kCodes;
  const FloatTable table = Kind::table(m);
  __m256 total[J], sums[J][2];
  for (int j = 0; j < J; ++j) total[j] = _mm256_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    int64_t lines = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (int j = 0; j < J; ++j) sums[j][0] = sums[j][1] = _mm256_setzero_ps();
    for (int64_t l = 0; l < lines; ++l, codes += kLine, values += width * kCodes) {
      __m256i both = load_codes(codes, half);
#pragma GCC unroll 8
      for (int k = 0; k < kCodes; ++k) {
        __m256 weights = table.of(_mm256_srli_epi32(both, 4 * k));
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) {
          __m256 activation = _mm256_set1_ps(Kind::activation(values + j * kCodes, k));
          sums[j][k % 2] = _mm256_fmadd_ps(weights, activation, sums[j][k % 2]);
        }
      }
    }
    __m256 scales = load_scales(m, g * m.blocks + b, half);
    for (int j = 0; j < J; ++j)
      total[j] = _mm256_fmadd_ps(_mm256_add_ps(sums[j][0], sums[j][1]), scales, total[j]);
  }
  for (int j = 0; j < J; ++j) store(m, g, half, out + j * stride, total[j]);
}

// Bytes of the table by nibbles, both halves of a register alike.
ALWAYS_INLINE __m256i byte_table(const Matrix& m, bool magnitude) {
  int8_t values[16];
  for (int i = 0; i < 16; ++i) {
    int value = m.table_int8[i] - 128;
    values[i] = static_cast<int8_t>(magnitude && value < 0 ? -value : value);
  }
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}

struct Bytes {
  __m256i magnitudes, signs;

  explicit ALWAYS_INLINE Bytes(const Matrix& m)
      : magnitudes(byte_table(m, true)), signs(byte_table(m, false)) {}

  // Four products a lane. |w| times x under w's sign: pairs of at most 2 * 127 * 127 fit 16 bits.
  ALWAYS_INLINE __m256i multiply(__m256i codes, __m256i activations) const {
    __m256i signed_activations =
        _mm256_sign_epi8(activations, _mm256_shuffle_epi8(signs, codes));
    __m256i pairs =
        _mm256_maddubs_epi16(_mm256_shuffle_epi8(magnitudes, codes), signed_activations);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
};

template <int J>
void int8_half(const Matrix& m, const Activations& x, int64_t column, int64_t width, float* out,
               int64_t stride, int64_t g, int half) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  int64_t place = column % kTile, tile = column - place;
  const int8_t* values =
      static_cast<const int8_t*>(x.values) + tile * m.lines * kCodes + place * kCodes;
  const float* steps = x.scales + tile * x.segments + place;
  const Bytes bytes(m);
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256 total[J];
  for (int j = 0; j < J; ++j) total[j] = _mm256_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    __m256 scales = load_scales(m, g * m.blocks + b, half);
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (; left > 0; left -= kSegment, steps += width) {
      __m256i sums[J];
      for (int j = 0; j < J; ++j) sums[j] = _mm256_setzero_si256();
      for (int64_t l = 0; l < (left < kSegment ? left : kSegment); ++l) {
        __m256i both = load_codes(codes, half);
        __m256i even = _mm256_and_si256(both, nibble);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) {
          const int8_t* at = values + j * kCodes;
          sums[j] = _mm256_add_epi32(sums[j], bytes.multiply(even, load_word(at)));
          sums[j] = _mm256_add_epi32(sums[j], bytes.multiply(odd, load_word(at + 4)));
        }
        codes += kLine;
        values += width * kCodes;
      }
      for (int j = 0; j < J; ++j) {
        total[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[j]),
                                   _mm256_mul_ps(scales, _mm256_set1_ps(steps[j])), total[j]);
      }
    }
  }
  const __m256 unit = _mm256_set1_ps(m.int8_step);
  for (int j = 0; j < J; ++j)
    store(m, g, half, out + j * stride, _mm256_mul_ps(total[j], unit));
}

template <class Kind>
struct FloatCall {
  template <int J>
  static constexpr auto run = float_half<Kind, J>;
};

struct Int8Call {
  template <int J>
  static constexpr auto run = int8_half<J>;
};

template <class Call>
void multiply(const Matrix& m, const Activations& x, float* out, int64_t stride, int64_t first,
              int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    for (int64_t c = 0; c < x.count;) {
      int64_t tile = c / kTile * kTile;
      int64_t width = x.count - tile < kTile ? x.count - tile : kTile;
      int64_t left = tile + width - c;
      int many = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      auto run = many == 4 ? Call::template run<4>
                           : many == 2 ? Call::template run<2> : Call::template run<1>;
      for (int half = 0; half < 2; ++half) run(m, x, c, width, out + c * stride, stride, g, half);
      c += many;
    }
  }
}

}  // namespace

const InstructionSet kAvx2 = {
    "avx2",
    multiply<FloatCall<Float32>>,
    multiply<FloatCall<Bfloat16>>,
    multiply<Int8Call>,
    prepare_float32,
    prepare_bfloat16,
    prepare_int8,
    encode,
    decode,
    to_bfloat16,
    read_bytes,
};

}  // namespace studentfloat
