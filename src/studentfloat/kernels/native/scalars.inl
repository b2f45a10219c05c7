// Bits of floats. Included by the files of the instruction sets, each of which keeps its own
// copy (see kernels.h), and by none else.

namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline float float_of_bfloat16(uint16_t half) {
  return float_of_bits(static_cast<uint32_t>(half) << 16);
}

// To nearest, ties to even; NaN stays NaN.
inline uint16_t bfloat16_of_float(float value) {
  uint32_t bits = bits_of(value);
  uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : bits >> 16 | 0x40);
}

inline float float_of_float16(uint16_t half) {
  uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
  float subnormal = static_cast<float>(static_cast<int32_t>(mantissa)) * 0x1p-24f;
  uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  uint32_t bits = exponent == 0 ? bits_of(subnormal) : wide << 23 | mantissa << 13;
  return float_of_bits(sign | bits);
}

// To nearest, ties to even; infinity beyond the range. The value is finite.
inline uint16_t float16_of_float(float value) {
  uint32_t sign = bits_of(value) >> 16 & 0x8000u;
  float magnitude = __builtin_fabsf(value);
  // Adding 0.5 leaves units of 2**-24, the subnormal step, in the last place.
  uint32_t subnormal = bits_of(magnitude + 0.5f) - bits_of(0.5f);
  uint32_t bits = bits_of(magnitude) - (112u << 23);
  uint32_t normal = (bits + 0xFFF + (bits >> 13 & 1)) >> 13;
  uint32_t rounded = magnitude < 0x1p-14f ? subnormal : normal;
  return static_cast<uint16_t>(sign | (magnitude >= 65520.0f ? 0x7C00u : rounded));
}

}  // namespace
