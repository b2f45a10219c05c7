// AVX2 with FMA and F16C: a line of 64 bytes is two registers of 8 rows.

#include <immintrin.h>

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"
#include "hadamard.inl"

namespace {

#define ALWAYS_INLINE inline __attribute__((always_inline))

ALWAYS_INLINE __m256i load_bytes(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}

// Sixteen bytes, twice: what shuffles within halves of a register look up.
ALWAYS_INLINE __m256i twice(const uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// The first `count` of 8 numbers, the others zero: what lies behind them is not read.
ALWAYS_INLINE __m256 load_first(const float* x, int64_t count) {
  if (count >= 8) return _mm256_loadu_ps(x);
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), places);
  return _mm256_maskload_ps(x, there);
}

ALWAYS_INLINE float greatest_of(__m256 v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Up to 16 bytes, and zeros: what lies behind them is not read.
ALWAYS_INLINE __m128i load_first_bytes(const uint8_t* from, int64_t count) {
  const __m128i* at = reinterpret_cast<const __m128i*>(from);
  if (count >= 16) return _mm_loadu_si128(at);
  if (count == 8) return _mm_loadl_epi64(at);  // blocks of 16 codes
  uint8_t bytes[16] = {};
  if (count > 0) __builtin_memcpy(bytes, from, static_cast<size_t>(count));
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// See codec.inl.
struct Lanes {
  __m256 middle, three, eleven;  // thresholds
  // Thresholds by their level's place in a search, negated: permutations look at its lowest 3 bits.
  __m256 odd, even;
  __m128i codes;
  __m256i magnitude;             // the greatest seen, as bits

  explicit Lanes(const Encoder& e)
      : middle(_mm256_set1_ps(e.thresholds[7])),
        three(_mm256_set1_ps(e.thresholds[3])),
        eleven(_mm256_set1_ps(e.thresholds[11])),
        codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(e.codes))),
        magnitude(_mm256_setzero_si256()) {
    const float* cut = e.thresholds;
    odd = _mm256_setr_ps(cut[1], 0, 0, 0, 0, cut[13], cut[9], cut[5]);
    even = _mm256_setr_ps(cut[0], cut[14], cut[12], cut[10], cut[8], cut[6], cut[4], cut[2]);
  }

  bool all_finite() const {
    const __m256i most = _mm256_set1_epi32(0x7F7FFFFF);
    return _mm256_testz_si256(_mm256_cmpgt_epi32(magnitude, most), _mm256_set1_epi32(-1));
  }

  ALWAYS_INLINE void extremes(const float* x, int64_t count, float* greatest, float* least) {
    const __m256i number = _mm256_set1_epi32(0x7FFFFFFF);
    __m256 above = _mm256_setzero_ps(), below = above;
    __m256i most = magnitude;  // a member would be stored each time
    for (int64_t i = 0; i < count; i += 8) {
      __m256 v = load_first(x + i, count - i);
      above = _mm256_max_ps(v, above);
      below = _mm256_min_ps(v, below);
      most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v), number));
    }
    magnitude = most;
    *greatest = greatest_of(above);
    *least = -greatest_of(_mm256_sub_ps(_mm256_setzero_ps(), below));
  }

  // A step of a binary search: twice the level, and one more where v is above the threshold. A true
  // comparison counts -1, so levels are negative.
  static ALWAYS_INLINE __m256i step(__m256i level, __m256 v, __m256 cut) {
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(v, cut, _CMP_GT_OQ));
    return _mm256_add_epi32(_mm256_add_epi32(level, level), above);
  }

  // Minus the number of thresholds below.
  ALWAYS_INLINE __m256i level(__m256 v) const {
    __m256 upper = _mm256_cmp_ps(v, middle, _CMP_GT_OQ);
    __m256i at = step(_mm256_castps_si256(upper), v, _mm256_blendv_ps(three, eleven, upper));
    at = step(at, v, _mm256_permutevar8x32_ps(odd, at));
    return step(at, v, _mm256_permutevar8x32_ps(even, at));
  }

  // Codes of 32 numbers.
  ALWAYS_INLINE __m256i codes_at(const float* x, __m256 divisor) const {
    __m256i levels[4];
    for (int k = 0; k < 4; ++k)
      levels[k] = level(_mm256_div_ps(_mm256_loadu_ps(x + 8 * k), divisor));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(levels[0], levels[1]),
                                       _mm256_packs_epi32(levels[2], levels[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codes), _mm256_abs_epi8(bytes));
  }

  // Of the first `count` of 8, and zeros.
  ALWAYS_INLINE uint64_t codes_at(const float* x, __m256 divisor, int64_t count) const {
    __m256i levels = level(_mm256_div_ps(load_first(x, count), divisor));
    __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(levels), _mm256_extracti128_si256(levels, 1));
    __m128i bytes = _mm_shuffle_epi8(codes, _mm_abs_epi8(_mm_packs_epi16(words, words)));
    uint64_t eight = static_cast<uint64_t>(_mm_cvtsi128_si64(bytes));
    return count >= 8 ? eight : eight & ((uint64_t{1} << 8 * count) - 1);
  }

  ALWAYS_INLINE void encode(const float* x, int64_t count, float divisor, uint8_t* out) const {
    const __m256 by = _mm256_set1_ps(divisor);
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), codes_at(x + i, by));
    for (; i < count; i += 8) {
      uint64_t bytes = codes_at(x + i, by, count - i);
      if (count - i >= 8) __builtin_memcpy(out + i, &bytes, 8);
      else __builtin_memcpy(out + i, &bytes, static_cast<size_t>(count - i));
    }
  }

  // Two codes a byte: the second one, times 16, is added to the first.
  ALWAYS_INLINE void encode_pairs(const float* x, int64_t count, float divisor,
                                  uint8_t* out) const {
    const __m256 by = _mm256_set1_ps(divisor);
    const __m256i places = _mm256_set1_epi16(16 << 8 | 1);
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
      __m256i words = _mm256_maddubs_epi16(codes_at(x + i, by), places);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i / 2),
                       _mm_packus_epi16(_mm256_castsi256_si128(words),
                                        _mm256_extracti128_si256(words, 1)));
    }
    for (; i < count; i += 8) {
      __m128i eight = _mm_cvtsi64_si128(static_cast<int64_t>(codes_at(x + i, by, count - i)));
      __m128i words = _mm_maddubs_epi16(eight, _mm256_castsi256_si128(places));
      int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
      if (count - i >= 8) __builtin_memcpy(out + i / 2, &bytes, 4);
      else __builtin_memcpy(out + i / 2, &bytes, static_cast<size_t>(count - i + 1) / 2);
    }
  }
};

// A table's 16 values of kBytes each, byte by byte: one shuffle looks up a byte of 32 values.
template <int kBytes>
struct BytePlanes {
  __m256i planes[kBytes];

  BytePlanes() = default;

  explicit BytePlanes(const void* values) {
    const uint8_t* from = static_cast<const uint8_t*>(values);
    for (int b = 0; b < kBytes; ++b) {
      uint8_t plane[16];
      for (int i = 0; i < 16; ++i) plane[i] = from[kBytes * i + b];
      planes[b] = twice(plane);
    }
  }

  // Of 32 codes: in each half of the registers, 16 values in the order of the codes.
  ALWAYS_INLINE void look_up(__m256i codes, __m256i* values) const {
    __m256i bytes[kBytes];
    for (int b = 0; b < kBytes; ++b) bytes[b] = _mm256_shuffle_epi8(planes[b], codes);
    if constexpr (kBytes == 2) {
      values[0] = _mm256_unpacklo_epi8(bytes[0], bytes[1]);
      values[1] = _mm256_unpackhi_epi8(bytes[0], bytes[1]);
    } else {
      __m256i low[2] = {_mm256_unpacklo_epi8(bytes[0], bytes[1]),
                        _mm256_unpackhi_epi8(bytes[0], bytes[1])};
      __m256i high[2] = {_mm256_unpacklo_epi8(bytes[2], bytes[3]),
                         _mm256_unpackhi_epi8(bytes[2], bytes[3])};
      for (int i = 0; i < 2; ++i) {
        values[2 * i] = _mm256_unpacklo_epi16(low[i], high[i]);
        values[2 * i + 1] = _mm256_unpackhi_epi16(low[i], high[i]);
      }
    }
  }
};

// Floats are scaled when they have been looked up; shorter numbers, which are rounded too, before.
struct LookUp {
  static constexpr int64_t kWidth = 32;
  const float* table;
  BytePlanes<4> floats;
  OutType type;
  bool stream;

  LookUp(const float* values, OutType out, bool streams)
      : table(values), floats(values), type(out), stream(streams) {}

  void finish() const {
    if (stream) _mm_sfence();
  }

  // The bits of 8 numbers, rounded to the output's type.
  ALWAYS_INLINE __m128i rounded(__m256 v) const {
    if (type == OutType::float16) return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    __m256i words = _mm256_srli_epi32(up, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }

  // The bytes of 16 scaled values, the low ones and the high ones apart.
  ALWAYS_INLINE BytePlanes<2> scaled_halves(float scale) const {
    const __m256 by = _mm256_set1_ps(scale);
    const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m128i first = rounded(_mm256_mul_ps(_mm256_loadu_ps(table), by));
    __m128i second = rounded(_mm256_mul_ps(_mm256_loadu_ps(table + 8), by));
    first = _mm_shuffle_epi8(first, apart);
    second = _mm_shuffle_epi8(second, apart);
    BytePlanes<2> halves;
    halves.planes[0] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(first, second));
    halves.planes[1] = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(first, second));
    return halves;
  }

  template <class Out>
  ALWAYS_INLINE void put(__m256i v, int64_t left, Out* out) const {
    constexpr int64_t kMany = 32 / sizeof(Out);
    if (stream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out), v);
    } else if (left >= kMany) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v);
    } else if (left > 0) {
      Out values[kMany];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), v);
      __builtin_memcpy(out, values, static_cast<size_t>(left) * sizeof(Out));
    }
  }

  // Both look-ups want the codes of consecutive registers in turn in the lower and upper half.
  ALWAYS_INLINE void put_values(__m256i codes, int64_t left, float scale,
                                const BytePlanes<4>& planes, float* out) const {
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    __m256i values[4];
    planes.look_up(_mm256_permutevar8x32_epi32(codes, order), values);
    for (int i = 0; i < 4; ++i) {
      __m256 v = _mm256_mul_ps(_mm256_castsi256_ps(values[i]), _mm256_set1_ps(scale));
      put(_mm256_castps_si256(v), left - 8 * i, out + 8 * i);
    }
  }

  ALWAYS_INLINE void put_values(__m256i codes, int64_t left, float, const BytePlanes<2>& planes,
                                uint16_t* out) const {
    __m256i values[2];
    planes.look_up(_mm256_permute4x64_epi64(codes, 0xD8), values);
    for (int i = 0; i < 2; ++i) put(values[i], left - 16 * i, out + 16 * i);
  }

  template <class Out>
  ALWAYS_INLINE auto planes_for(float scale) const {
    if constexpr (sizeof(Out) == 4) return floats;
    else return scaled_halves(scale);
  }

  template <class Out>
  void bytes(const uint8_t* codes, int64_t count, float scale, Out* out) const {
    const auto planes = planes_for<Out>(scale);
    for (int64_t i = 0; i < count; i += kWidth) {
      __m128i first = load_first_bytes(codes + i, count - i);
      __m128i second = load_first_bytes(codes + i + 16, count - i - 16);
      put_values(_mm256_set_m128i(second, first), count - i, scale, planes, out + i);
    }
  }

  template <class Out>
  void pairs(const uint8_t* packed, int64_t count, float scale, Out* out) const {
    const auto planes = planes_for<Out>(scale);
    for (int64_t i = 0; i < count; i += kWidth) {
      // A byte in each 16-bit lane: its low code stays in the lower byte, its high one goes to
      // the bottom of the upper.
      __m256i wide = _mm256_cvtepu8_epi16(load_first_bytes(packed + i / 2, (count - i + 1) / 2));
      __m256i codes = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)),
                                       _mm256_set1_epi8(15));
      put_values(codes, count - i, scale, planes, out + i);
    }
  }
};

}  // namespace

#include "codec.inl"

namespace {

constexpr int kHalves = 2;            // registers of 8 rows in a line
// How far ahead of the multiplication codes and scales are fetched.
constexpr int64_t kAhead = 64 * kLine, kScalesAhead = 1024;

ALWAYS_INLINE __m256 load_scales(const Matrix& m, int64_t at, int half) {
  int64_t place = at * kRows + half * 8;
  if (m.scale_type == ScaleType::float32) {
    const float* scales = static_cast<const float*>(m.scales) + place;
    _mm_prefetch(reinterpret_cast<const char*>(scales) + kScalesAhead, _MM_HINT_T0);
    return _mm256_loadu_ps(scales);
  }
  const uint16_t* scales = static_cast<const uint16_t*>(m.scales) + place;
  _mm_prefetch(reinterpret_cast<const char*>(scales) + kScalesAhead, _MM_HINT_T0);
  __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales));
  if (m.scale_type == ScaleType::float16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

ALWAYS_INLINE __m256i load_codes(const uint8_t* codes, int half) {
  return load_bytes(codes + kLine / kHalves * half);
}

ALWAYS_INLINE void fetch_ahead(const uint8_t* codes) {
  _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
}

// The even codes of each 32-bit lane, or the odd ones.
ALWAYS_INLINE __m256i nibbles(__m256i both, int odd) {
  return _mm256_and_si256(odd ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
}

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

// Each arithmetic in floats puts the bytes of 8 rows in such an order that what is looked up for
// the four even codes, or the four odd ones, comes out with the 8 rows of a code in a register.
struct Float32 {
  using Value = float;
  BytePlanes<4> table;

  explicit ALWAYS_INLINE Float32(const Matrix& m) : table(m.table) {}

  static ALWAYS_INLINE __m256i order(__m256i codes) {
    return _mm256_shuffle_epi8(
        codes, _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }

  ALWAYS_INLINE void weights(__m256i codes, __m256* out) const {
    __m256i values[4];
    table.look_up(codes, values);
    for (int i = 0; i < 4; ++i) out[i] = _mm256_castsi256_ps(values[i]);
  }

  static ALWAYS_INLINE const float* as_floats(const float* values, int64_t, float*) {
    return values;
  }
};

struct Bfloat16 {
  using Value = uint16_t;
  BytePlanes<2> table;

  explicit ALWAYS_INLINE Bfloat16(const Matrix& m) : table(m.table_bfloat16) {}

  static ALWAYS_INLINE __m256i order(__m256i codes) {
    return _mm256_shuffle_epi8(
        codes, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  }

  // A lane of two halves, as floats.
  static ALWAYS_INLINE __m256 lower(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  }
  static ALWAYS_INLINE __m256 upper(__m256i pairs) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int32_t>(0xFFFF0000))));
  }

  ALWAYS_INLINE void weights(__m256i codes, __m256* out) const {
    __m256i values[2];
    table.look_up(codes, values);
    for (int i = 0; i < 2; ++i) {
      out[2 * i] = lower(values[i]);
      out[2 * i + 1] = upper(values[i]);
    }
  }

  // The activations of some lines, in their order (see Activations).
  static ALWAYS_INLINE const float* as_floats(const uint16_t* values, int64_t lines, float* room) {
    const __m256i shift = _mm256_setr_epi32(16, 16, 16, 16, 0, 0, 0, 0);
#pragma GCC unroll 8
    for (int64_t l = 0; l < lines; ++l) {
      __m256i pairs = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + l * kCodes)));
      _mm256_storeu_ps(room + l * kCodes, upper(_mm256_sllv_epi32(pairs, shift)));
    }
    return room;
  }
};

// Sums that are added to in turn, so that an addition need not wait for the one before.
template <int J>
constexpr int kSums = J == 1 ? 4 : J <= 3 ? 2 : 1;

// Eight rows of some lines times J columns. Both halves at once would want more registers for sums
// than there are.
template <class Kind, int J>
ALWAYS_INLINE void float_lines(const Kind& kind, const uint8_t* codes, const float* x,
                               int64_t lines, __m256 (&sums)[J]) {
  __m256 parts[J][kSums<J>];
  for (int j = 0; j < J; ++j)
    for (int s = 0; s < kSums<J>; ++s) parts[j][s] = _mm256_setzero_ps();
  for (int64_t l = 0; l < lines; ++l, codes += kLine, x += J * kCodes) {
    __m256i both = Kind::order(load_bytes(codes));
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      __m256 weights[4];
      kind.weights(nibbles(both, odd), weights);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
          __m256& sum = parts[j][i % kSums<J>];
          sum = _mm256_fmadd_ps(weights[i], _mm256_broadcast_ss(x + j * kCodes + 2 * i + odd), sum);
        }
      }
    }
  }
  for (int j = 0; j < J; ++j) {
    sums[j] = parts[j][0];
    for (int s = 1; s < kSums<J>; ++s) sums[j] = _mm256_add_ps(sums[j], parts[j][s]);
  }
}

// A whole tile of J columns times a group.
template <class Kind, int J>
void float_group(const Matrix& m, const Activations& x, int64_t column, int64_t, float* out,
                 int64_t stride, int64_t g) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  auto values = static_cast<const typename Kind::Value*>(x.values) + column * m.lines * kCodes;
  const Kind kind(m);
  __m256 total[kHalves][J];
  for (int h = 0; h < kHalves; ++h)
    for (int j = 0; j < J; ++j) total[h][j] = _mm256_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    __m256 scales[kHalves];
    for (int h = 0; h < kHalves; ++h) scales[h] = load_scales(m, g * m.blocks + b, h);
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (; left > 0; left -= kSegment) {
      int64_t lines = least(left, kSegment);
      for (int64_t l = 0; l < lines; ++l) fetch_ahead(codes + l * kLine);
      float room[kSegment * J * kCodes];
      const float* floats = Kind::as_floats(values, lines * J, room);
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        __m256 sums[J];
        float_lines<Kind, J>(kind, codes + kLine / kHalves * h, floats, lines, sums);
        for (int j = 0; j < J; ++j) total[h][j] = _mm256_fmadd_ps(sums[j], scales[h], total[h][j]);
      }
      codes += lines * kLine;
      values += lines * J * kCodes;
    }
  }
  for (int j = 0; j < J; ++j)
    for (int h = 0; h < kHalves; ++h) store(m, g, h, out + j * stride, total[h][j]);
}

ALWAYS_INLINE __m256i load_word(const void* at) {
  int32_t word;
  __builtin_memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

// Four products a lane. |x| times w under x's sign: pairs of at most 2 * 127 * 127 fit 16 bits.
ALWAYS_INLINE __m256i multiply_bytes(__m256i weights, __m256i x, __m256i magnitudes) {
  __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(weights, x));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// J columns of a tile of `width`, beginning at column `column`, times a group.
template <int J>
void int8_group(const Matrix& m, const Activations& x, int64_t column, int64_t width, float* out,
                int64_t stride, int64_t g) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  int64_t place = column % kTile, tile = column - place;
  const int8_t* values =
      static_cast<const int8_t*>(x.values) + tile * m.lines * kCodes + place * kCodes;
  const float* steps = x.scales + tile * x.segments + place;
  const __m256i table = _mm256_xor_si256(twice(m.table_int8), _mm256_set1_epi8(-128));
  __m256 total[J][kHalves];
  for (int j = 0; j < J; ++j)
    for (int h = 0; h < kHalves; ++h) total[j][h] = _mm256_setzero_ps();
  for (int64_t b = 0; b < m.blocks; ++b) {
    __m256 scales[kHalves];
    for (int h = 0; h < kHalves; ++h) scales[h] = load_scales(m, g * m.blocks + b, h);
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (; left > 0; left -= kSegment, steps += width) {
      __m256i sums[J][kHalves];
      for (int j = 0; j < J; ++j)
        for (int h = 0; h < kHalves; ++h) sums[j][h] = _mm256_setzero_si256();
      for (int64_t l = 0; l < least(left, kSegment); ++l) {
        fetch_ahead(codes);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd) {
          __m256i weights[kHalves];
          for (int h = 0; h < kHalves; ++h)
            weights[h] = _mm256_shuffle_epi8(table, nibbles(load_codes(codes, h), odd));
#pragma GCC unroll 4
          for (int j = 0; j < J; ++j) {
            __m256i word = load_word(values + j * kCodes + 4 * odd);
            __m256i magnitudes = _mm256_abs_epi8(word);
            for (int h = 0; h < kHalves; ++h) {
              sums[j][h] =
                  _mm256_add_epi32(sums[j][h], multiply_bytes(weights[h], word, magnitudes));
            }
          }
        }
        codes += kLine;
        values += width * kCodes;
      }
      for (int j = 0; j < J; ++j) {
        for (int h = 0; h < kHalves; ++h) {
          total[j][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[j][h]),
                                        _mm256_mul_ps(scales[h], _mm256_set1_ps(steps[j])),
                                        total[j][h]);
        }
      }
    }
  }
  const __m256 unit = _mm256_set1_ps(m.int8_step);
  for (int j = 0; j < J; ++j)
    for (int h = 0; h < kHalves; ++h)
      store(m, g, h, out + j * stride, _mm256_mul_ps(total[j][h], unit));
}

// The compiled kernel for a number of columns, of which it takes kMost at once.
template <class Kind>
struct FloatCall {
  static constexpr int kMost = kTile;
  template <int J>
  static constexpr auto run = float_group<Kind, J>;
};

struct Int8Call {
  static constexpr int kMost = 4;
  template <int J>
  static constexpr auto run = int8_group<J>;
};

template <class Call, int J>
auto kernel_for(int64_t columns) {
  if constexpr (J > 1) {
    if (columns < J) return kernel_for<Call, J - 1>(columns);
  }
  return Call::template run<J>;
}

template <class Call>
void multiply(const Matrix& m, const Activations& x, float* out, int64_t stride, int64_t first,
              int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    for (int64_t c = 0; c < x.count;) {
      int64_t tile = c / kTile * kTile, width = least(x.count - tile, kTile);
      int64_t many = least(tile + width - c, Call::kMost);
      kernel_for<Call, Call::kMost>(many)(m, x, c, width, out + c * stride, stride, g);
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
    rotate_rows,
    encode_paths_avx2,
    nearest_avx2,
    8,
};

}  // namespace studentfloat
