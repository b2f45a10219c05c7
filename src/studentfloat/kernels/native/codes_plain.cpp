// Codes with memory or of several dimensions: for every machine, and the measure of the others.

#include "nearest.h"
#include "trellis.h"

#define ALWAYS_INLINE inline

namespace studentfloat {

namespace {

// Vectors of 16 bytes as GCC and Clang know them on any processor.
struct Lanes {
  static constexpr int64_t kCount = 8;

  typedef uint16_t Vector __attribute__((vector_size(16)));
  typedef int32_t Wide __attribute__((vector_size(32)));

  template <int D>
  struct Winner {
    Vector cost, which;
  };

  static Vector fill(uint16_t value) { return Vector{} + value; }

  template <int K>
  static Vector expand(const uint16_t* p) {
    return Vector{p[0],      p[1 >> K], p[2 >> K], p[3 >> K],
                  p[4 >> K], p[5 >> K], p[6 >> K], p[7 >> K]};
  }

  static Vector cost(Vector x, const int16_t* values) {
    Vector bits;
    __builtin_memcpy(&bits, values, sizeof bits);
    typedef int16_t Signed __attribute__((vector_size(16)));
    Wide d = __builtin_convertvector(reinterpret_cast<Signed&>(x), Wide) -
             __builtin_convertvector(reinterpret_cast<Signed&>(bits), Wide);
    d = d > 32767 ? Wide{} + 32767 : d;
    d = d < -32768 ? Wide{} - 32768 : d;
    return __builtin_convertvector((d * d + (1 << 14)) >> 15, Vector);
  }

  static Vector add(Vector a, Vector b) {
    Vector sum = a + b;
    return sum | reinterpret_cast<Vector>(sum < a);
  }

  static Vector subtract(Vector a, Vector b) { return a - b; }
  static Vector minimum(Vector a, Vector b) { return a < b ? a : b; }

  static Winner<0> first(Vector cost) { return {cost, Vector{}}; }

  template <int D>
  static Winner<D> better(const Winner<D - 1>& a, const Winner<D - 1>& b) {
    auto second = b.cost < a.cost;
    return {second ? b.cost : a.cost, second ? b.which + (1 << (D - 1)) : a.which};
  }

  template <int K>
  static void store(const Winner<K>& won, uint16_t* costs, uint8_t* back, int64_t path) {
    __builtin_memcpy(costs + path, &won.cost, sizeof won.cost);
    typedef uint8_t Bytes __attribute__((vector_size(8)));
    Bytes which = __builtin_convertvector(won.which, Bytes);
    __builtin_memcpy(back + path, &which, sizeof which);
  }

  template <int K>
  static uint32_t choice(const uint8_t* back, uint32_t path) {
    return back[path];
  }

  static uint16_t least(Vector v) {
    uint16_t found = v[0];
    for (int i = 1; i < kCount; ++i) found = v[i] < found ? v[i] : found;
    return found;
  }
};

}  // namespace

#include "trellis.inl"

namespace {

constexpr int kWidth = 4;

}  // namespace

#include "nearest.inl"

void encode_paths_plain(const Trellis& t, const Sequences& s, int64_t first, int64_t last,
                     void* scratch) {
  encode_paths_by_bits(t, s, first, last, scratch);
}

void nearest_plain(const PointTable& t, const float* vectors, int64_t first, int64_t last,
                 int64_t* found) {
  nearest_by_width(t, vectors, first, last, found);
}

}  // namespace studentfloat
