// AVX-512 with VNNI, VBMI and BF16: one line of 64 bytes is one register.

#include <immintrin.h>

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"
#include "hadamard.inl"

namespace {

#define ALWAYS_INLINE inline __attribute__((always_inline))

ALWAYS_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
}

ALWAYS_INLINE __mmask32 first_words(int64_t count) {
  return count >= 32 ? 0xFFFFFFFF : static_cast<__mmask32>((uint32_t{1} << count) - 1);
}

// 32 bins of equal width, from the least threshold to the greatest. Where none holds two
// thresholds, one look-up and one comparison find a level: what lies in a lower bin than a threshold
// is below it, since rounding keeps the order.
struct Bins {
  static constexpr float kUnit = 0x1p23f;  // from here on, floats are the integers
  __m512 slope, offset, cuts[2];
  __m512i levels[2];
  bool apart = false;

  explicit Bins(const Encoder& e) {
    int used = e.thresholds_used;
    float first = e.thresholds[0], range = used > 1 ? e.thresholds[used - 1] - first : 1.0f;
    slope = _mm512_set1_ps(29.0f / range);
    offset = _mm512_set1_ps(kUnit + 1.0f - first * (29.0f / range));
    uint32_t bins[16];
    float cut[32];
    int32_t level[32], below = 0;
    _mm512_storeu_si512(bins, of(_mm512_loadu_ps(e.thresholds)));
    for (int bin = 0; bin < 32; ++bin) {
      level[bin] = below;
      cut[bin] = __builtin_inff();
      if (below < used && (bins[below] & 31) == static_cast<uint32_t>(bin))
        cut[bin] = e.thresholds[below++];
    }
    apart = used > 0 && below == used;
    for (int half = 0; half < 2; ++half) {
      cuts[half] = _mm512_loadu_ps(cut + 16 * half);
      levels[half] = _mm512_loadu_si512(level + 16 * half);
    }
  }

  // In the lowest 5 bits.
  ALWAYS_INLINE __m512i of(__m512 v) const {
    __m512 place = _mm512_max_ps(_mm512_fmadd_ps(v, slope, offset), _mm512_set1_ps(kUnit));
    return _mm512_castps_si512(_mm512_min_ps(place, _mm512_set1_ps(kUnit + 31.0f)));
  }

  ALWAYS_INLINE __m512i level(__m512 v) const {
    __m512i bin = of(v);
    __m512i below = _mm512_permutex2var_epi32(levels[0], bin, levels[1]);
    __m512 cut = _mm512_permutex2var_ps(cuts[0], bin, cuts[1]);
    return _mm512_mask_add_epi32(below, _mm512_cmp_ps_mask(v, cut, _CMP_GT_OQ), below,
                                 _mm512_set1_epi32(1));
  }
};

// See codec.inl.
struct Lanes {
  Bins bins;
  __m512 thresholds, middle, three, eleven;
  __m512i codes, magnitude;  // magnitude: the greatest seen, as bits

  explicit Lanes(const Encoder& e)
      : bins(e),
        thresholds(_mm512_loadu_ps(e.thresholds)),
        middle(_mm512_set1_ps(e.thresholds[7])),
        three(_mm512_set1_ps(e.thresholds[3])),
        eleven(_mm512_set1_ps(e.thresholds[11])),
        codes(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(e.codes)))),
        magnitude(_mm512_setzero_si512()) {}

  bool all_finite() const { return _mm512_reduce_max_epu32(magnitude) < 0x7F800000; }

  ALWAYS_INLINE void extremes(const float* x, int64_t count, float* greatest, float* least) {
    __m512 above = _mm512_setzero_ps(), below = above;
    const __m512i number = _mm512_set1_epi32(0x7FFFFFFF);
    auto see = [&](__m512 v) __attribute__((always_inline)) {
      above = _mm512_max_ps(above, v);
      below = _mm512_min_ps(below, v);
      magnitude = _mm512_max_epu32(magnitude, _mm512_and_si512(_mm512_castps_si512(v), number));
    };
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) see(_mm512_loadu_ps(x + i));
    if (i < count) see(_mm512_maskz_loadu_ps(first_lanes(count - i), x + i));
    // Both at once: the upper half of a register is for the least, negated.
    __m512 negated = _mm512_sub_ps(_mm512_setzero_ps(), below);
    __m512 both = _mm512_max_ps(_mm512_shuffle_f32x4(above, negated, 0x44),
                                _mm512_shuffle_f32x4(above, negated, 0xEE));
    both = _mm512_max_ps(both, _mm512_shuffle_f32x4(both, both, 0xB1));
    both = _mm512_max_ps(both, _mm512_permute_ps(both, 0x4E));
    both = _mm512_max_ps(both, _mm512_permute_ps(both, 0xB1));
    *greatest = _mm512_cvtss_f32(both);
    *least = -_mm_cvtss_f32(_mm512_extractf32x4_ps(both, 2));
  }

  // Four steps of a binary search in a register.
  ALWAYS_INLINE __m512i level(__m512 v) const {
    __mmask16 upper = _mm512_cmp_ps_mask(v, middle, _CMP_GT_OQ);
    __m512i at = _mm512_maskz_set1_epi32(upper, 8);
    __mmask16 next = _mm512_cmp_ps_mask(v, _mm512_mask_blend_ps(upper, three, eleven), _CMP_GT_OQ);
    at = _mm512_mask_add_epi32(at, next, at, _mm512_set1_epi32(4));
    // Permutations look at the lowest 4 bits: the place minus one is that of the threshold.
    for (int step = 2; step >= 1; step /= 2) {
      __m512 cut = _mm512_permutexvar_ps(
          _mm512_add_epi32(at, _mm512_set1_epi32(step - 1)), thresholds);
      at = _mm512_mask_add_epi32(at, _mm512_cmp_ps_mask(v, cut, _CMP_GT_OQ), at,
                                 _mm512_set1_epi32(step));
    }
    return at;
  }

  // Codes of sixteen numbers that are divided already.
  template <bool Apart>
  ALWAYS_INLINE __m512i nearest(__m512 v) const {
    return _mm512_permutexvar_epi32(Apart ? bins.level(v) : level(v), codes);
  }

  template <bool Apart>
  ALWAYS_INLINE __m512i codes_at(const float* x, __m512 divisor) const {
    return nearest<Apart>(_mm512_div_ps(_mm512_loadu_ps(x), divisor));
  }

  // Of fewer than sixteen, and zeros. Masks are for the last numbers alone: they cost an eighth of
  // the time.
  template <bool Apart>
  ALWAYS_INLINE __m512i codes_at(const float* x, __m512 divisor, int64_t count) const {
    const __mmask16 lanes = first_lanes(count);
    __m512 v = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, x), divisor);
    return _mm512_maskz_mov_epi32(lanes, nearest<Apart>(v));
  }

  // A byte for each code.
  template <bool Apart>
  ALWAYS_INLINE void bytes(const float* x, int64_t count, float divisor, uint8_t* out) const {
    const __m512 by = _mm512_set1_ps(divisor);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                       _mm512_cvtepi32_epi8(codes_at<Apart>(x + i, by)));
    if (i < count)
      _mm_mask_storeu_epi8(out + i, first_lanes(count - i),
                           _mm512_cvtepi32_epi8(codes_at<Apart>(x + i, by, count - i)));
  }

  // Sixteen codes as eight bytes: the one in the upper half of 64 bits comes to lie above the other.
  static ALWAYS_INLINE __m128i pack(__m512i code) {
    return _mm512_cvtepi64_epi8(_mm512_or_si512(code, _mm512_srli_epi64(code, 28)));
  }

  // A byte for two codes.
  template <bool Apart>
  ALWAYS_INLINE void pairs(const float* x, int64_t count, float divisor, uint8_t* out) const {
    const __m512 by = _mm512_set1_ps(divisor);
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i / 2),
                       _mm_unpacklo_epi64(pack(codes_at<Apart>(x + i, by)),
                                          pack(codes_at<Apart>(x + i + 16, by))));
    for (; i < count; i += 16) {
      int64_t many = count - i < 16 ? count - i : 16;
      _mm_mask_storeu_epi8(out + i / 2, first_lanes((many + 1) / 2),
                           pack(codes_at<Apart>(x + i, by, many)));
    }
  }

  ALWAYS_INLINE void encode(const float* x, int64_t count, float divisor, uint8_t* out) const {
    if (bins.apart) bytes<true>(x, count, divisor, out);
    else bytes<false>(x, count, divisor, out);
  }

  ALWAYS_INLINE void encode_pairs(const float* x, int64_t count, float divisor,
                                  uint8_t* out) const {
    if (bins.apart) pairs<true>(x, count, divisor, out);
    else pairs<false>(x, count, divisor, out);
  }
};

// A block's codes look up values that are scaled, and rounded, already.
struct LookUp {
  __m512 values;
  OutType type;
  bool stream;

  LookUp(const float* table, OutType out, bool streams)
      : values(_mm512_loadu_ps(table)), type(out), stream(streams) {}

  void finish() const {
    if (stream) _mm_sfence();
  }

  ALWAYS_INLINE __m512 scaled(float scale) const {
    return _mm512_mul_ps(values, _mm512_set1_ps(scale));
  }

  // Twice, so that the fifth bit of an index does not count.
  ALWAYS_INLINE __m512i scaled_halves(float scale) const {
    __m512 v = scaled(scale);
    if (type == OutType::float16)
      return _mm512_broadcast_i64x4(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    // By hand: the instruction for it takes subnormal numbers for zero.
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    return _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
  }

  ALWAYS_INLINE void put(__m512 v, __mmask16 lanes, float* out) const {
    if (stream) _mm512_stream_ps(out, v);
    else _mm512_mask_storeu_ps(out, lanes, v);
  }

  ALWAYS_INLINE void put(__m512i v, __mmask32 lanes, uint16_t* out) const {
    if (stream) _mm512_stream_si512(reinterpret_cast<__m512i*>(out), v);
    else _mm512_mask_storeu_epi16(out, lanes, v);
  }

  void bytes(const uint8_t* codes, int64_t count, float scale, float* out) const {
    const __m512 table = scaled(scale);
    for (int64_t i = 0; i < count; i += 16) {
      __mmask16 lanes = first_lanes(count - i);
      __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, codes + i));
      put(_mm512_permutexvar_ps(code, table), lanes, out + i);
    }
  }

  void bytes(const uint8_t* codes, int64_t count, float scale, uint16_t* out) const {
    const __m512i table = scaled_halves(scale);
    for (int64_t i = 0; i < count; i += 32) {
      __mmask32 lanes = first_words(count - i);
      __m512i code = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, codes + i));
      put(_mm512_permutexvar_epi16(code, table), lanes, out + i);
    }
  }

  void pairs(const uint8_t* packed, int64_t count, float scale, float* out) const {
    const __m512 table = scaled(scale);
    // Eight bytes, each half of them in eight lanes, shifted to their code.
    const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i shift =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    for (int64_t i = 0; i < count; i += 16) {
      int64_t left = count - i;
      __m128i eight = left >= 16
                          ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed + i / 2))
                          : _mm_maskz_loadu_epi8(first_lanes((left + 1) / 2), packed + i / 2);
      __m512i code = _mm512_srlv_epi32(
          _mm512_permutexvar_epi32(which, _mm512_castsi128_si512(eight)), shift);
      put(_mm512_permutexvar_ps(code, table), first_lanes(left), out + i);
    }
  }

  void pairs(const uint8_t* packed, int64_t count, float scale, uint16_t* out) const {
    const __m512i table = scaled_halves(scale);
    for (int64_t i = 0; i < count; i += 32) {
      int64_t left = count - i;
      __m128i sixteen = left >= 32
                            ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i / 2))
                            : _mm_maskz_loadu_epi8(first_lanes((left + 1) / 2), packed + i / 2);
      // A byte in each 32-bit lane: its low code stays in the lower word, its high one goes to
      // the bottom of the upper.
      __m512i wide = _mm512_cvtepu8_epi32(sixteen);
      __m512i code = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 12));
      put(_mm512_permutexvar_epi16(code, table), first_words(left), out + i);
    }
  }
};

}  // namespace

#include "codec.inl"

namespace {

// How far ahead of the multiplication codes and scales are fetched.
constexpr int64_t kAhead = 64 * kLine, kScalesAhead = 1024;

template <ScaleType T>
ALWAYS_INLINE __m512 load_scales(const void* scales, int64_t at) {
  constexpr int64_t kBytes = T == ScaleType::float32 ? 4 : 2;
  _mm_prefetch(static_cast<const char*>(scales) + at * kRows * kBytes + kScalesAhead, _MM_HINT_T0);
  if constexpr (T == ScaleType::float32) {
    return _mm512_loadu_ps(static_cast<const float*>(scales) + at * kRows);
  } else {
    __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
        static_cast<const uint16_t*>(scales) + at * kRows));
    if constexpr (T == ScaleType::float16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
}

ALWAYS_INLINE __m512i load_word(const void* at) {
  int32_t word;
  __builtin_memcpy(&word, at, 4);
  return _mm512_set1_epi32(word);
}

// Sums that are added to in turn, so that an addition need not wait for the one before: for one
// column four; more columns are independent of each other already.
template <int J>
constexpr int kSums = J == 1 ? 4 : J <= 3 ? 2 : 1;

// Lines multiplied in a row, at least: the loop around a single column's few instructions counts.
template <int J>
constexpr int kUnrolled = J == 1 ? 4 : 1;

template <int J>
ALWAYS_INLINE __m512 add_up(const __m512 (&sums)[J][kSums<J>], int j) {
  if constexpr (kSums<J> == 4) {
    return _mm512_add_ps(_mm512_add_ps(sums[j][0], sums[j][1]),
                         _mm512_add_ps(sums[j][2], sums[j][3]));
  } else if constexpr (kSums<J> == 2) {
    return _mm512_add_ps(sums[j][0], sums[j][1]);
  } else {
    return sums[j][0];
  }
}

// Each arithmetic multiplies one line, and gives a block's sums as floats.
template <int J>
struct Float32 {
  static constexpr int64_t kBytes = J * kCodes * 4;  // activations of a line
  __m512 table;
  __m512 sums[J][kSums<J>];

  explicit ALWAYS_INLINE Float32(const Matrix& m) : table(_mm512_loadu_ps(m.table)) {}

  ALWAYS_INLINE void line(__m512i codes, const char* x) {
    const float* values = reinterpret_cast<const float*>(x);
#pragma GCC unroll 8
    for (int k = 0; k < kCodes; ++k) {
      // The permutation looks at the lowest 4 bits of each lane alone.
      __m512 weights = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4 * k), table);
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        __m512& sum = sums[j][k % kSums<J>];
        sum = _mm512_fmadd_ps(weights, _mm512_set1_ps(values[j * kCodes + k]), sum);
      }
    }
  }
};

template <int J>
struct Bfloat16 {
  static constexpr int64_t kBytes = J * kCodes * 2;
  __m512i table;
  __m512 sums[J][kSums<J>];

  explicit ALWAYS_INLINE Bfloat16(const Matrix& m)
      : table(_mm512_broadcast_i64x4(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(m.table_bfloat16)))) {}

  ALWAYS_INLINE void line(__m512i codes, const char* x) {
#pragma GCC unroll 4
    for (int k = 0; k < kCodes / 2; ++k) {
      // 5 bits of each 16-bit lane count; the table is there twice, so the fifth does not.
      __m512i weights = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * k), table);
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        __m512& sum = sums[j][k % kSums<J>];
        sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights),
                               reinterpret_cast<__m512bh>(load_word(x + (j * 4 + k) * 4)));
      }
    }
  }
};

template <template <int> class Kind, int J, ScaleType T>
ALWAYS_INLINE void float_group(const Matrix& m, const char* x, float* out, int64_t stride,
                               int64_t g, __mmask16 rows) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  Kind<J> kind(m);
  __m512 total[J];
  for (int j = 0; j < J; ++j) total[j] = _mm512_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    int64_t lines = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (int j = 0; j < J; ++j)
      for (int s = 0; s < kSums<J>; ++s) kind.sums[j][s] = _mm512_setzero_ps();
    auto line = [&]() __attribute__((always_inline)) {
      _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
      kind.line(_mm512_loadu_si512(codes), x);
      codes += kLine;
      x += Kind<J>::kBytes;
    };
    int64_t l = 0;
    for (; l + kUnrolled<J> <= lines; l += kUnrolled<J>) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnrolled<J>; ++u) line();
    }
    for (; l < lines; ++l) line();
    __m512 scales = load_scales<T>(m.scales, g * m.blocks + b);
    for (int j = 0; j < J; ++j)
      total[j] = _mm512_fmadd_ps(add_up<J>(kind.sums, j), scales, total[j]);
  }
  for (int j = 0; j < J; ++j) _mm512_mask_storeu_ps(out + j * stride, rows, total[j]);
}

template <int J, ScaleType T>
ALWAYS_INLINE void int8_group(const Matrix& m, const char* x, const float* steps,
                              const int32_t* corrections, float* out, int64_t stride, int64_t g,
                              __mmask16 rows) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  // 6 bits of a byte count in this permutation: the table is there four times.
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(m.table_int8)));
  constexpr int kTurns = J == 1 ? 2 : 1;  // sums taken in turn by the lines
  __m512 total[J];
  for (int j = 0; j < J; ++j) total[j] = _mm512_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    __m512 scales = load_scales<T>(m.scales, g * m.blocks + b);
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    while (left > 0) {
      int64_t lines = left < kSegment ? left : kSegment;
      left -= lines;
      __m512i low[kTurns][J], high[kTurns][J];
      for (int j = 0; j < J; ++j) {
        low[0][j] = _mm512_set1_epi32(corrections[j]);
        high[0][j] = _mm512_setzero_si512();
        for (int t = 1; t < kTurns; ++t) low[t][j] = high[t][j] = _mm512_setzero_si512();
      }
      auto line = [&](int turn) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
        __m512i both = _mm512_loadu_si512(codes);
        __m512i even = _mm512_permutexvar_epi8(both, table);
        __m512i odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(both, 4), table);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
          low[turn][j] = _mm512_dpbusd_epi32(low[turn][j], even, load_word(x + j * 8));
          __m512i& other = kTurns > 1 ? high[turn][j] : low[turn][j];
          other = _mm512_dpbusd_epi32(other, odd, load_word(x + j * 8 + 4));
        }
        codes += kLine;
        x += J * kCodes;
      };
      int64_t l = 0;
      for (; l + kUnrolled<J> <= lines; l += kUnrolled<J>) {
#pragma GCC unroll 4
        for (int u = 0; u < kUnrolled<J>; ++u) line(u % kTurns);
      }
      for (; l < lines; ++l) line(0);
      for (int j = 0; j < J; ++j) {
        __m512i sum = low[0][j];
        if constexpr (kTurns == 2) {
          sum = _mm512_add_epi32(_mm512_add_epi32(sum, high[0][j]),
                                 _mm512_add_epi32(low[1][j], high[1][j]));
        }
        total[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                                   _mm512_mul_ps(scales, _mm512_set1_ps(steps[j])), total[j]);
      }
      steps += J;
      corrections += J;
    }
  }
  for (int j = 0; j < J; ++j) {
    _mm512_mask_storeu_ps(out + j * stride, rows,
                          _mm512_mul_ps(total[j], _mm512_set1_ps(m.int8_step)));
  }
}

__mmask16 row_mask(const Matrix& m, int64_t g) {
  return first_lanes(m.rows - g * kRows);
}

// The compiled kernel for a number of columns and a scale type.
template <template <int> class Kind, ScaleType T>
struct FloatCall {
  template <int J>
  static void run(const Matrix& m, const Activations& x, int64_t column, float* out,
                  int64_t stride, int64_t g) {
    const char* values = static_cast<const char*>(x.values) +
                         column * m.lines * (Kind<1>::kBytes);
    float_group<Kind, J, T>(m, values, out, stride, g, row_mask(m, g));
  }
};

template <ScaleType T>
struct Int8Call {
  template <int J>
  static void run(const Matrix& m, const Activations& x, int64_t column, float* out,
                  int64_t stride, int64_t g) {
    const char* values = static_cast<const char*>(x.values) + column * m.lines * kCodes;
    int8_group<J, T>(m, values, x.scales + column * x.segments, x.sums + column * x.segments, out,
                     stride, g, row_mask(m, g));
  }
};

template <class Call>
void all_columns(const Matrix& m, const Activations& x, float* out, int64_t stride, int64_t first,
                 int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    for (int64_t c = 0; c < x.count; c += kTile) {
      float* to = out + c * stride + g * kRows;
      switch (x.count - c < kTile ? x.count - c : kTile) {
        case 1: Call::template run<1>(m, x, c, to, stride, g); break;
        case 2: Call::template run<2>(m, x, c, to, stride, g); break;
        case 3: Call::template run<3>(m, x, c, to, stride, g); break;
        case 4: Call::template run<4>(m, x, c, to, stride, g); break;
        case 5: Call::template run<5>(m, x, c, to, stride, g); break;
        case 6: Call::template run<6>(m, x, c, to, stride, g); break;
        case 7: Call::template run<7>(m, x, c, to, stride, g); break;
        default: Call::template run<8>(m, x, c, to, stride, g); break;
      }
    }
  }
}

template <template <ScaleType> class Call>
void by_scale_type(const Matrix& m, const Activations& x, float* out, int64_t stride,
                   int64_t first, int64_t last) {
  switch (m.scale_type) {
    case ScaleType::float32:
      return all_columns<Call<ScaleType::float32>>(m, x, out, stride, first, last);
    case ScaleType::bfloat16:
      return all_columns<Call<ScaleType::bfloat16>>(m, x, out, stride, first, last);
    case ScaleType::float16:
      return all_columns<Call<ScaleType::float16>>(m, x, out, stride, first, last);
  }
}

template <ScaleType T>
using Float32Call = FloatCall<Float32, T>;
template <ScaleType T>
using Bfloat16Call = FloatCall<Bfloat16, T>;

}  // namespace

const InstructionSet kAvx512 = {
    "avx512",
    by_scale_type<Float32Call>,
    by_scale_type<Bfloat16Call>,
    by_scale_type<Int8Call>,
    prepare_float32,
    prepare_bfloat16,
    prepare_int8,
    encode,
    decode,
    to_bfloat16,
    read_bytes,
    rotate_rows,
    encode_paths_avx512,
    nearest_avx512,
    16,
};

}  // namespace studentfloat
