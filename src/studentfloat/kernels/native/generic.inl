// Included like scalars.inl.

namespace {

// What codec.inl asks for, sixteen numbers at a time, so that the compiler may use the vectors
// that its flags allow.
struct Lanes {
  static constexpr int64_t kWidth = 16;
  const Encoder& e;
  uint32_t magnitude[kWidth] = {};  // the greatest seen, as bits

  explicit Lanes(const Encoder& encoder) : e(encoder) {}

  bool all_finite() const {
    uint32_t most = 0;
    for (int64_t l = 0; l < kWidth; ++l) most = magnitude[l] > most ? magnitude[l] : most;
    return most < 0x7F800000;
  }

  // The greatest number and the least, no less and no greater than what is there already.
  void extremes(const float* x, int64_t count, float* greatest, float* least) {
    float above[kWidth], below[kWidth];
    for (int64_t l = 0; l < kWidth; ++l) above[l] = *greatest, below[l] = *least;
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) {
      for (int64_t l = 0; l < kWidth; ++l) {
        float v = x[i + l];
        uint32_t bits = bits_of(v) & 0x7FFFFFFF;
        above[l] = v > above[l] ? v : above[l];
        below[l] = v < below[l] ? v : below[l];
        magnitude[l] = bits > magnitude[l] ? bits : magnitude[l];
      }
    }
    for (int64_t l = 0; i < count; ++i, ++l) {
      float v = x[i];
      uint32_t bits = bits_of(v) & 0x7FFFFFFF;
      above[l] = v > above[l] ? v : above[l];
      below[l] = v < below[l] ? v : below[l];
      magnitude[l] = bits > magnitude[l] ? bits : magnitude[l];
    }
    for (int64_t l = 0; l < kWidth; ++l) {
      *greatest = above[l] > *greatest ? above[l] : *greatest;
      *least = below[l] < *least ? below[l] : *least;
    }
  }

  void encode(const float* x, int64_t count, float divisor, uint8_t* codes) const {
    for (int64_t i = 0; i < count; i += kWidth) {
      float quotients[kWidth] = {};
      int32_t levels[kWidth] = {};
      int64_t many = count - i < kWidth ? count - i : kWidth;
      if (many == kWidth) {
        for (int64_t l = 0; l < kWidth; ++l) quotients[l] = x[i + l] / divisor;
      } else {
        for (int64_t l = 0; l < many; ++l) quotients[l] = x[i + l] / divisor;
      }
      for (int t = 0; t < e.thresholds_used; ++t)
        for (int64_t l = 0; l < kWidth; ++l) levels[l] += quotients[l] > e.thresholds[t];
      for (int64_t l = 0; l < many; ++l) codes[i + l] = e.codes[levels[l]];
    }
  }

  // Two codes a byte.
  void encode_pairs(const float* x, int64_t count, float divisor, uint8_t* packed) const {
    for (int64_t i = 0; i < count; i += kWidth) {
      uint8_t codes[kWidth] = {};
      int64_t many = count - i < kWidth ? count - i : kWidth;
      encode(x + i, many, divisor, codes);
      for (int64_t l = 0; l < many; l += 2)
        packed[(i + l) / 2] = static_cast<uint8_t>(codes[l] | codes[l + 1] << 4);
    }
  }
};

// A block's codes look up values that are scaled, and rounded, already.
struct LookUp {
  const float* table;
  OutType type;

  LookUp(const float* values, OutType out, bool) : table(values), type(out) {}

  void finish() const {}

  void scale_table(float scale, float* scaled) const {
    for (int i = 0; i < 16; ++i) scaled[i] = table[i] * scale;
  }

  void scale_table(float scale, uint16_t* scaled) const {
    for (int i = 0; i < 16; ++i) {
      float value = table[i] * scale;
      scaled[i] = type == OutType::bfloat16 ? bfloat16_of_float(value) : float16_of_float(value);
    }
  }

  template <class Out>
  void bytes(const uint8_t* codes, int64_t count, float scale, Out* out) const {
    Out scaled[16];
    scale_table(scale, scaled);
    for (int64_t i = 0; i < count; ++i) out[i] = scaled[codes[i]];
  }

  template <class Out>
  void pairs(const uint8_t* packed, int64_t count, float scale, Out* out) const {
    Out scaled[16];
    scale_table(scale, scaled);
    for (int64_t i = 0; i < count; ++i) out[i] = scaled[packed[i / 2] >> 4 * (i % 2) & 15];
  }
};

}  // namespace
