// Orthogonal transforms of rows: signs, sums and differences. Included like scalars.inl.
//
// The same sums in the same order for every instruction set, so the same bits: vectors of
// the width that the flags allow, and no fused products.

namespace {

#if defined(__AVX512F__)
#define STUDENTFLOAT_LANES(h) \
  0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, 9 ^ h, 10 ^ h, 11 ^ h, 12 ^ h, \
      13 ^ h, 14 ^ h, 15 ^ h
constexpr int64_t kLanes = 16;
#elif defined(__AVX2__)
#define STUDENTFLOAT_LANES(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h
constexpr int64_t kLanes = 8;
#else
#define STUDENTFLOAT_LANES(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h
constexpr int64_t kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Words __attribute__((vector_size(kLanes * 4)));

#if defined(__clang__)
#define STUDENTFLOAT_SWAP(v, h) __builtin_shufflevector(v, v, STUDENTFLOAT_LANES(h))
#else
#define STUDENTFLOAT_SWAP(v, h) __builtin_shuffle(v, Words{STUDENTFLOAT_LANES(h)})
#endif

// Sums and differences of numbers that lie H apart in one vector.
template <int H>
inline __attribute__((always_inline)) void within(Floats& v) {
  const Words lanes = Words{STUDENTFLOAT_LANES(0)} & H;
  Words flip = (lanes != 0) & static_cast<int32_t>(0x80000000u);
  Floats other = STUDENTFLOAT_SWAP(v, H);
  v = other + (Floats)((Words)v ^ flip);
}

// x H for one run of `count` numbers, a power of two.
void walsh_hadamard(float* x, int64_t count) {
  int64_t h = 1;
  if (count >= kLanes) {
    for (int64_t i = 0; i < count; i += kLanes) {
      Floats v = *reinterpret_cast<Floats*>(x + i);
      within<1>(v);
      within<2>(v);
      if constexpr (kLanes > 4) within<4>(v);
      if constexpr (kLanes > 8) within<8>(v);
      *reinterpret_cast<Floats*>(x + i) = v;
    }
    h = kLanes;
    // Two stages at a time, to read and write half as often.
    for (; 2 * h < count; h *= 4) {
      for (int64_t i = 0; i < count; i += 4 * h) {
        for (int64_t j = i; j < i + h; j += kLanes) {
          Floats* at[4];
          for (int k = 0; k < 4; ++k) at[k] = reinterpret_cast<Floats*>(x + j + k * h);
          Floats a = *at[0] + *at[1], b = *at[0] - *at[1];
          Floats c = *at[2] + *at[3], d = *at[2] - *at[3];
          *at[0] = a + c;
          *at[1] = b + d;
          *at[2] = a - c;
          *at[3] = b - d;
        }
      }
    }
  }
  for (; h < count; h *= 2) {
    for (int64_t i = 0; i < count; i += 2 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        float a = x[j], b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
}

// out = factor x, where x is order x count and factor order x order, both row by row.
void mix(const float* factor, int64_t order, const float* x, int64_t count, float* out) {
  constexpr int64_t kTogether = 4;
  if (count % kLanes != 0) {
    for (int64_t i = 0; i < order; ++i) {
      float* row = out + i * count;
      for (int64_t c = 0; c < count; ++c) row[c] = 0;
      for (int64_t j = 0; j < order; ++j) {
        float by = factor[i * order + j];
        for (int64_t c = 0; c < count; ++c) row[c] += by * x[j * count + c];
      }
    }
    return;
  }
  for (int64_t i = 0; i < order; i += kTogether) {
    int64_t rows = order - i < kTogether ? order - i : kTogether;
    for (int64_t c = 0; c < count; c += kLanes) {
      Floats sums[kTogether] = {};
      if (rows == kTogether) {
        for (int64_t j = 0; j < order; ++j) {
          Floats v = *reinterpret_cast<const Floats*>(x + j * count + c);
          for (int64_t r = 0; r < kTogether; ++r) sums[r] += factor[(i + r) * order + j] * v;
        }
      } else {
        for (int64_t j = 0; j < order; ++j) {
          Floats v = *reinterpret_cast<const Floats*>(x + j * count + c);
          for (int64_t r = 0; r < rows; ++r) sums[r] += factor[(i + r) * order + j] * v;
        }
      }
      for (int64_t r = 0; r < rows; ++r)
        *reinterpret_cast<Floats*>(out + (i + r) * count + c) = sums[r];
    }
  }
}

void rotate_rows(const Rotation& r, float* x, int64_t first, int64_t last, float* space) {
  const int64_t count = r.block / r.order;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t start = 0; start < r.width; start += r.block) {
      float* run = x + row * r.width + start;
      if (r.signs_before)
        for (int64_t i = 0; i < r.block; ++i) run[i] *= r.signs_before[start + i];
      for (int64_t i = 0; i < r.block; i += count) walsh_hadamard(run + i, count);
      const float* result = run;
      if (r.order > 1) {
        mix(r.factor, r.order, run, count, space);
        result = space;
      }
      if (r.signs_after) {
        for (int64_t i = 0; i < r.block; ++i)
          run[i] = result[i] * r.scale * r.signs_after[start + i];
      } else {
        for (int64_t i = 0; i < r.block; ++i) run[i] = result[i] * r.scale;
      }
    }
  }
}

}  // namespace
