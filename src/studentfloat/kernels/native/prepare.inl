// Laying out activations (see Activations in kernels.h), and rounding what becomes of them.
// Included like scalars.inl.

namespace {

constexpr int kPlaces[3][8] = {
    {0, 1, 2, 3, 4, 5, 6, 7},  // float32
    {0, 2, 4, 6, 1, 3, 5, 7},  // bfloat16
    {0, 4, 1, 5, 2, 6, 3, 7},  // int8
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Column {
  int64_t tile, width, place;

  Column(const Prepare& p, int64_t c)
      : tile(c / kTile * kTile), width(least(kTile, p.count - tile)), place(c - tile) {}
};

// One column through `convert`, 8 numbers to a line, blocks padded with zeros.
template <class Value, class From, class Convert>
void lay_out(const Prepare& p, int64_t c, const From* x, const int (&places)[8],
             Convert convert) {
  Column column(p, c);
  int64_t step = column.width * kCodes;
  Value* to = static_cast<Value*>(p.values) + column.tile * p.m.lines * kCodes +
              column.place * kCodes;
  x += c * p.m.columns;
  for (int64_t start = 0; start < p.m.columns; start += p.block_size) {
    int64_t stop = least(start + p.block_size, p.m.columns), i = start;
    for (; i + kCodes <= stop; i += kCodes, to += step)
      for (int k = 0; k < kCodes; ++k) to[places[k]] = convert(x[i + k]);
    if (i < stop) {
      for (int k = 0; k < kCodes; ++k) to[places[k]] = i + k < stop ? convert(x[i + k]) : Value(0);
      to += step;
    }
  }
}

void prepare_float32(const Prepare& p, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c) {
    if (p.x_is_bfloat16) {
      lay_out<float>(p, c, static_cast<const uint16_t*>(p.x), kPlaces[0], float_of_bfloat16);
    } else {
      lay_out<float>(p, c, static_cast<const float*>(p.x), kPlaces[0], [](float v) { return v; });
    }
  }
}

void prepare_bfloat16(const Prepare& p, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c) {
    if (p.x_is_bfloat16) {
      lay_out<uint16_t>(p, c, static_cast<const uint16_t*>(p.x), kPlaces[1],
                        [](uint16_t v) { return v; });
    } else {
      lay_out<uint16_t>(p, c, static_cast<const float*>(p.x), kPlaces[1], bfloat16_of_float);
    }
  }
}

// Numbers of one segment, at most kSegment * kCodes of them, and zeros up to a whole line.
template <class From>
void load_segment(const From* x, int64_t count, float* numbers) {
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (sizeof(From) == 2) numbers[i] = float_of_bfloat16(x[i]);
    else numbers[i] = x[i];
  }
  for (int64_t i = count; i % kCodes; ++i) numbers[i] = 0;
}

// The integers of a segment in natural order, their sum; gives the step.
float round_segment(const float* numbers, int64_t count, int32_t* integers, int32_t* sum) {
  uint32_t peak_bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = bits_of(numbers[i]) & 0x7FFFFFFF;
    peak_bits = bits > peak_bits ? bits : peak_bits;
  }
  float peak = float_of_bits(peak_bits);
  bool finite = peak_bits < 0x7F800000;
  float inverse = 127.0f / peak;
  // The inverse of zero and of some subnormal numbers is infinite: they count as zero.
  bool counts = finite && inverse < __builtin_inff();
  int32_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    // Adding 1.5 * 2**23 rounds to the nearest integer, ties to even, and leaves it in the
    // lowest bits.
    float rounded = (counts ? numbers[i] * inverse : 0.0f) + 12582912.0f;
    integers[i] = static_cast<int32_t>(bits_of(rounded) - 0x4B400000u);
    total += integers[i];
  }
  *sum = -128 * total;
  return finite ? peak / 127.0f : __builtin_nanf("");
}

template <class From>
void prepare_int8_column(const Prepare& p, int64_t c, const From* x) {
  Column column(p, c);
  int64_t step = column.width * kCodes;
  int8_t* to = static_cast<int8_t*>(p.values) + column.tile * p.m.lines * kCodes +
               column.place * kCodes;
  float* scale = p.scales + column.tile * p.segments + column.place;
  int32_t* sum = p.sums + column.tile * p.segments + column.place;
  float numbers[kSegment * kCodes];
  int32_t integers[kSegment * kCodes];
  x += c * p.m.columns;
  for (int64_t start = 0; start < p.m.columns; start += p.block_size) {
    int64_t stop = least(start + p.block_size, p.m.columns);
    for (int64_t i = start; i < stop; i += kSegment * kCodes) {
      int64_t count = least(kSegment * kCodes, stop - i);
      int64_t padded = (count + kCodes - 1) / kCodes * kCodes;
      load_segment(x + i, count, numbers);
      *scale = round_segment(numbers, padded, integers, sum);
      for (int64_t l = 0; l < padded; l += kCodes, to += step)
        for (int k = 0; k < kCodes; ++k) to[kPlaces[2][k]] = static_cast<int8_t>(integers[l + k]);
      scale += column.width;
      sum += column.width;
    }
  }
}

void prepare_int8(const Prepare& p, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c) {
    if (p.x_is_bfloat16) prepare_int8_column(p, c, static_cast<const uint16_t*>(p.x));
    else prepare_int8_column(p, c, static_cast<const float*>(p.x));
  }
}

// What a product gives, to its output's type.
void to_bfloat16(const float* numbers, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bfloat16_of_float(numbers[i]);
}

}  // namespace
