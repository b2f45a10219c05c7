// Codes with memory or of several dimensions, with AVX-512: 32 path costs a register, choices as bits.

#include <immintrin.h>

#include "nearest.h"
#include "trellis.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace studentfloat {

namespace {

struct Lanes {
  using Vector = __m512i;
  static constexpr int64_t kCount = 32;

  // Bit i of a plane belongs to lane i.
  template <int D>
  struct Winner {
    Vector cost;
    __mmask32 planes[D ? D : 1];
  };

  static ALWAYS_INLINE Vector fill(uint16_t value) {
    return _mm512_set1_epi16(static_cast<short>(value));
  }

  template <int K>
  static ALWAYS_INLINE Vector expand(const uint16_t* p) {
    alignas(64) static constexpr struct Places {
      uint16_t of[32];
      constexpr Places() : of() {
        for (int i = 0; i < 32; ++i) of[i] = static_cast<uint16_t>(i >> K);
      }
    } kPlaces;
    __m512i places = _mm512_load_si512(kPlaces.of);
    if constexpr (K == 1) {
      __m256i few = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      return _mm512_permutexvar_epi16(places, _mm512_castsi256_si512(few));
    } else {
      __m128i few = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return _mm512_permutexvar_epi16(places, _mm512_castsi128_si512(few));
    }
  }

  static ALWAYS_INLINE Vector cost(Vector x, const int16_t* v) {
    __m512i d = _mm512_subs_epi16(x, _mm512_loadu_si512(v));
    return _mm512_mulhrs_epi16(d, d);
  }

  static ALWAYS_INLINE Vector add(Vector a, Vector b) { return _mm512_adds_epu16(a, b); }
  static ALWAYS_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
  static ALWAYS_INLINE Vector minimum(Vector a, Vector b) { return _mm512_min_epu16(a, b); }

  static ALWAYS_INLINE Winner<0> first(Vector cost) { return {cost, {}}; }

  template <int D>
  static ALWAYS_INLINE Winner<D> better(const Winner<D - 1>& a, const Winner<D - 1>& b) {
    Winner<D> won;
    __mmask32 second = _mm512_cmplt_epu16_mask(b.cost, a.cost);
    won.cost = _mm512_min_epu16(a.cost, b.cost);
    for (int d = 0; d + 1 < D; ++d)
      won.planes[d] = (a.planes[d] & ~second) | (b.planes[d] & second);
    won.planes[D - 1] = second;
    return won;
  }

  template <int K>
  static ALWAYS_INLINE void store(const Winner<K>& won, uint16_t* costs, uint8_t* back,
                                  int64_t path) {
    _mm512_storeu_si512(costs + path, won.cost);
    auto planes = reinterpret_cast<uint32_t*>(back + path / 8 * K);
    for (int d = 0; d < K; ++d) planes[d] = won.planes[d];
  }

  template <int K>
  static ALWAYS_INLINE uint32_t choice(const uint8_t* back, uint32_t path) {
    auto planes = reinterpret_cast<const uint32_t*>(back + path / 32 * 4 * K);
    uint32_t which = 0;
    for (int d = 0; d < K; ++d) which |= (planes[d] >> path % 32 & 1) << d;
    return which;
  }

  static ALWAYS_INLINE uint16_t least(Vector v) {
    alignas(64) uint16_t costs[32];
    _mm512_store_si512(costs, v);
    uint16_t found = costs[0];
    for (int i = 1; i < 32; ++i) found = costs[i] < found ? costs[i] : found;
    return found;
  }
};

}  // namespace

#include "trellis.inl"

namespace {

constexpr int kWidth = 16;

}  // namespace

#include "nearest.inl"

void encode_paths_avx512(const Trellis& t, const Sequences& s, int64_t first, int64_t last,
                     void* scratch) {
  encode_paths_by_bits(t, s, first, last, scratch);
}

void nearest_avx512(const PointTable& t, const float* vectors, int64_t first, int64_t last,
                 int64_t* found) {
  nearest_by_width(t, vectors, first, last, found);
}

}  // namespace studentfloat
