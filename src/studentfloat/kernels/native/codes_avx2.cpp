// Codes with memory or of several dimensions, with AVX2: 16 path costs a register.

#include <immintrin.h>

#include "nearest.h"
#include "trellis.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace studentfloat {

namespace {

struct Lanes {
  using Vector = __m256i;
  static constexpr int64_t kCount = 16;

  template <int D>
  struct Winner {
    Vector cost, which;
  };

  static ALWAYS_INLINE Vector fill(uint16_t value) {
    return _mm256_set1_epi16(static_cast<short>(value));
  }

  template <int K>
  static ALWAYS_INLINE Vector expand(const uint16_t* p) {
    alignas(32) static constexpr struct Places {
      uint8_t of[32];
      constexpr Places() : of() {
        for (int i = 0; i < 32; ++i)
          of[i] = static_cast<uint8_t>(2 * (i / 2 >> K) + i % 2);
      }
    } kPlaces;
    __m256i few = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_shuffle_epi8(few, _mm256_load_si256(reinterpret_cast<const __m256i*>(kPlaces.of)));
  }

  static ALWAYS_INLINE Vector cost(Vector x, const int16_t* v) {
    __m256i d = _mm256_subs_epi16(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v)));
    return _mm256_mulhrs_epi16(d, d);
  }

  static ALWAYS_INLINE Vector add(Vector a, Vector b) { return _mm256_adds_epu16(a, b); }
  static ALWAYS_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
  static ALWAYS_INLINE Vector minimum(Vector a, Vector b) { return _mm256_min_epu16(a, b); }

  static ALWAYS_INLINE Winner<0> first(Vector cost) { return {cost, _mm256_setzero_si256()}; }

  template <int D>
  static ALWAYS_INLINE Winner<D> better(const Winner<D - 1>& a, const Winner<D - 1>& b) {
    Winner<D> won;
    won.cost = _mm256_min_epu16(a.cost, b.cost);
    __m256i kept = _mm256_cmpeq_epi16(won.cost, a.cost);
    __m256i upper = _mm256_add_epi16(b.which, fill(1 << (D - 1)));
    won.which = _mm256_blendv_epi8(upper, a.which, kept);
    return won;
  }

  template <int K>
  static ALWAYS_INLINE void store(const Winner<K>& won, uint16_t* costs, uint8_t* back,
                                  int64_t path) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(costs + path), won.cost);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(won.which),
                                     _mm256_extracti128_si256(won.which, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(back + path), bytes);
  }

  template <int K>
  static ALWAYS_INLINE uint32_t choice(const uint8_t* back, uint32_t path) {
    return back[path];
  }

  static ALWAYS_INLINE uint16_t least(Vector v) {
    __m128i half = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(half)));
  }
};

}  // namespace

#include "trellis.inl"

namespace {

constexpr int kWidth = 8;

}  // namespace

#include "nearest.inl"

void encode_paths_avx2(const Trellis& t, const Sequences& s, int64_t first, int64_t last,
                     void* scratch) {
  encode_paths_by_bits(t, s, first, last, scratch);
}

void nearest_avx2(const PointTable& t, const float* vectors, int64_t first, int64_t last,
                 int64_t* found) {
  nearest_by_width(t, vectors, first, last, found);
}

}  // namespace studentfloat
