// Products with ARM's 128-bit vectors. Included by the files of the two sets that have them, which
// differ in flags alone: with the dot product instructions, int8 takes those.

#include <arm_neon.h>

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"
#include "hadamard.inl"
#include "generic.inl"
#include "codec.inl"

namespace {

#define ALWAYS_INLINE inline __attribute__((always_inline))

constexpr int kQuads = 4;             // registers of 4 rows in a group

ALWAYS_INLINE float32x4_t load_scales(const Matrix& m, int64_t at, int quad) {
  int64_t place = at * kRows + quad * 4;
  if (m.scale_type == ScaleType::float32)
    return vld1q_f32(static_cast<const float*>(m.scales) + place);
  uint16x4_t halves = vld1_u16(static_cast<const uint16_t*>(m.scales) + place);
  if (m.scale_type == ScaleType::float16) return vcvt_f32_f16(vreinterpret_f16_u16(halves));
  return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

ALWAYS_INLINE uint8x16_t nibble(uint8x16_t bytes, int odd) {
  return odd ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15));
}

// How an arithmetic in floats looks its table up, byte by byte of the values, and reads the 8
// activations of a line in their order.
struct Float32 {
  using Value = float;
  uint8x16x4_t bytes;

  explicit ALWAYS_INLINE Float32(const Matrix& m)
      : bytes(vld4q_u8(reinterpret_cast<const uint8_t*>(m.table))) {}

  ALWAYS_INLINE uint8x16x2_t low(uint8x16_t codes) const {
    return vzipq_u8(vqtbl1q_u8(bytes.val[0], codes), vqtbl1q_u8(bytes.val[1], codes));
  }
  ALWAYS_INLINE uint8x16x2_t high(uint8x16_t codes) const {
    return vzipq_u8(vqtbl1q_u8(bytes.val[2], codes), vqtbl1q_u8(bytes.val[3], codes));
  }
  static ALWAYS_INLINE void activations(const float* line, float32x4_t* x) {
    x[0] = vld1q_f32(line);
    x[1] = vld1q_f32(line + 4);
  }
};

struct Bfloat16 {
  using Value = uint16_t;
  uint8x16x2_t bytes;

  explicit ALWAYS_INLINE Bfloat16(const Matrix& m)
      : bytes(vld2q_u8(reinterpret_cast<const uint8_t*>(m.table_bfloat16))) {}

  ALWAYS_INLINE uint8x16x2_t low(uint8x16_t) const { return {{vdupq_n_u8(0), vdupq_n_u8(0)}}; }
  ALWAYS_INLINE uint8x16x2_t high(uint8x16_t codes) const {
    return vzipq_u8(vqtbl1q_u8(bytes.val[0], codes), vqtbl1q_u8(bytes.val[1], codes));
  }
  static ALWAYS_INLINE void activations(const uint16_t* line, float32x4_t* x) {
    uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(line));
    x[0] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    x[1] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000)));
  }
};

// The weights of 16 codes, four to a register.
template <class Kind>
ALWAYS_INLINE void look_up(const Kind& kind, uint8x16_t codes, float32x4_t* weights) {
  uint8x16x2_t low = kind.low(codes), high = kind.high(codes);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    uint16x8x2_t words =
        vzipq_u16(vreinterpretq_u16_u8(low.val[i]), vreinterpretq_u16_u8(high.val[i]));
    weights[2 * i] = vreinterpretq_f32_u16(words.val[0]);
    weights[2 * i + 1] = vreinterpretq_f32_u16(words.val[1]);
  }
}

ALWAYS_INLINE void store(const Matrix& m, int64_t g, int quad, float* out, float32x4_t total) {
  int64_t rows = m.rows - g * kRows - quad * 4;
  float* to = out + g * kRows + quad * 4;
  if (rows >= 4) {
    vst1q_f32(to, total);
  } else if (rows > 0) {
    float values[4];
    vst1q_f32(values, total);
    for (int64_t r = 0; r < rows; ++r) to[r] = values[r];
  }
}

// J columns of a tile of `width`, beginning at column `column`, times a group.
template <class Kind, int J>
void float_group(const Matrix& m, const Activations& x, int64_t column, int64_t width, float* out,
                 int64_t stride, int64_t g) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  int64_t place = column % kTile;
  auto values = static_cast<const typename Kind::Value*>(x.values) +
                (column - place) * m.lines * kCodes + place * kCodes;
  const Kind kind(m);
  float32x4_t total[J][kQuads], sums[J][kQuads];
  for (int j = 0; j < J; ++j)
    for (int q = 0; q < kQuads; ++q) total[j][q] = vdupq_n_f32(0);
  for (int64_t b = 0; b < m.blocks; ++b) {
    int64_t lines = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (int j = 0; j < J; ++j)
      for (int q = 0; q < kQuads; ++q) sums[j][q] = vdupq_n_f32(0);
    for (int64_t l = 0; l < lines; ++l, codes += kLine, values += width * kCodes) {
      // Byte i of all 16 rows in register i: what is looked up comes out four rows to a register.
      uint8x16x4_t line = vld4q_u8(codes);
      float32x4_t activations[J][2], weights[kQuads];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) Kind::activations(values + j * kCodes, activations[j]);
#pragma GCC unroll 8
      for (int k = 0; k < kCodes; ++k) {
        look_up(kind, nibble(line.val[k / 2], k % 2), weights);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) {
          float activation = activations[j][k / 4][k % 4];
#pragma GCC unroll 4
          for (int q = 0; q < kQuads; ++q)
            sums[j][q] = vfmaq_n_f32(sums[j][q], weights[q], activation);
        }
      }
    }
    for (int q = 0; q < kQuads; ++q) {
      float32x4_t scales = load_scales(m, g * m.blocks + b, q);
      for (int j = 0; j < J; ++j) total[j][q] = vfmaq_f32(total[j][q], sums[j][q], scales);
    }
  }
  for (int j = 0; j < J; ++j)
    for (int q = 0; q < kQuads; ++q) store(m, g, q, out + j * stride, total[j][q]);
}

ALWAYS_INLINE int8x16_t byte_table(const Matrix& m) {
  return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(m.table_int8), vdupq_n_u8(128)));
}

ALWAYS_INLINE int8x16_t load_word(const int8_t* at) {
  int32_t word;
  __builtin_memcpy(&word, at, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

// Sums of four rows, whose weights of four codes each fill a register.
#ifdef __ARM_FEATURE_DOTPROD
struct Sums {
  static constexpr int kColumns = 4;  // at once, that their sums fit the registers
  int32x4_t rows;

  ALWAYS_INLINE void clear() { rows = vdupq_n_s32(0); }

  ALWAYS_INLINE void add(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd) {
    rows = vdotq_s32(vdotq_s32(rows, even, x_even), odd, x_odd);
  }

  ALWAYS_INLINE float32x4_t floats() const { return vcvtq_f32_s32(rows); }
};
#else
struct Sums {
  static constexpr int kColumns = 2;
  int32x4_t low, high;                // two lanes a row

  ALWAYS_INLINE void clear() { low = high = vdupq_n_s32(0); }

  // Two products, of at most 128 * 127 each, fit 16 bits.
  ALWAYS_INLINE void add(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd) {
    int16x8_t below = vmull_s8(vget_low_s8(even), vget_low_s8(x_even));
    int16x8_t above = vmull_high_s8(even, x_even);
    low = vpadalq_s16(low, vmlal_s8(below, vget_low_s8(odd), vget_low_s8(x_odd)));
    high = vpadalq_s16(high, vmlal_high_s8(above, odd, x_odd));
  }

  ALWAYS_INLINE float32x4_t floats() const { return vcvtq_f32_s32(vpaddq_s32(low, high)); }
};
#endif

// As plain.cpp rounds, product and sum apart, so that both give the same bits: fusing them would
// win nothing, once in up to 16 lines.
template <int J>
void int8_group(const Matrix& m, const Activations& x, int64_t column, int64_t width, float* out,
                int64_t stride, int64_t g) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  int64_t place = column % kTile, tile = column - place;
  const int8_t* values =
      static_cast<const int8_t*>(x.values) + tile * m.lines * kCodes + place * kCodes;
  const float* steps = x.scales + tile * x.segments + place;
  const int8x16_t table = byte_table(m);
  float32x4_t total[J][kQuads];
  for (int j = 0; j < J; ++j)
    for (int q = 0; q < kQuads; ++q) total[j][q] = vdupq_n_f32(0);
  for (int64_t b = 0; b < m.blocks; ++b) {
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    for (; left > 0; left -= kSegment, steps += width) {
      Sums sums[J][kQuads];
      for (int j = 0; j < J; ++j)
        for (int q = 0; q < kQuads; ++q) sums[j][q].clear();
      for (int64_t l = 0; l < (left < kSegment ? left : kSegment); ++l) {
        int8x16_t even_x[J], odd_x[J];
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) {
          even_x[j] = load_word(values + j * kCodes);
          odd_x[j] = load_word(values + j * kCodes + 4);
        }
#pragma GCC unroll 4
        for (int q = 0; q < kQuads; ++q) {
          uint8x16_t both = vld1q_u8(codes + 16 * q);
          int8x16_t even = vqtbl1q_s8(table, nibble(both, 0));
          int8x16_t odd = vqtbl1q_s8(table, nibble(both, 1));
#pragma GCC unroll 4
          for (int j = 0; j < J; ++j) sums[j][q].add(even, odd, even_x[j], odd_x[j]);
        }
        codes += kLine;
        values += width * kCodes;
      }
      for (int q = 0; q < kQuads; ++q) {
        float32x4_t scales = load_scales(m, g * m.blocks + b, q);
        for (int j = 0; j < J; ++j) {
          float32x4_t units = vmulq_n_f32(scales, steps[j]);
          total[j][q] = vaddq_f32(total[j][q], vmulq_f32(sums[j][q].floats(), units));
        }
      }
    }
  }
  for (int j = 0; j < J; ++j)
    for (int q = 0; q < kQuads; ++q)
      store(m, g, q, out + j * stride, vmulq_n_f32(total[j][q], m.int8_step));
}

template <class Kind>
struct FloatCall {
  static constexpr int kColumns = 2;
  template <int J>
  static constexpr auto run = float_group<Kind, J>;
};

struct Int8Call {
  static constexpr int kColumns = Sums::kColumns;
  template <int J>
  static constexpr auto run = int8_group<J>;
};

template <class Call>
void multiply(const Matrix& m, const Activations& x, float* out, int64_t stride, int64_t first,
              int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    for (int64_t c = 0; c < x.count;) {
      int64_t tile = c / kTile * kTile;
      int64_t width = x.count - tile < kTile ? x.count - tile : kTile;
      int64_t left = tile + width - c;
      int many = left >= Call::kColumns ? Call::kColumns : left >= 2 ? 2 : 1;
      auto run = many == 1   ? Call::template run<1>
                 : many == 2 ? Call::template run<2>
                             : Call::template run<Call::kColumns>;
      run(m, x, c, width, out + c * stride, stride, g);
      c += many;
    }
  }
}

constexpr InstructionSet with_name(const char* name) {
  return {
      name,
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
      encode_paths_plain,  // vectors of 16 bytes: NEON's own
      nearest_plain,
      4,
  };
}

}  // namespace

}  // namespace studentfloat
