// Numbers to packed codes and back, as studentfloat.quantize does it, bit for bit. Included like
// scalars.inl, after a struct `Lanes` with what an instruction set does better than the compiler.

namespace {

// Blocks whose scales are found together.
constexpr int64_t kBlocks = 16;
// Columns whose codes wait as bytes to be packed.
constexpr int64_t kStretch = 4096;
constexpr float kLeastNormal = 0x1p-126f;

// The quotient, away from zero where it is so coarse (subnormal) that the peak would clip.
inline float divide_outward(float peak, float extreme) {
  float scale = peak / extreme;
  // Both, whatever the first says: a branch would keep scales from being found several at a time.
  bool too_small = (__builtin_fabsf(scale) < kLeastNormal) &
                   (__builtin_fabsf(scale * extreme) < __builtin_fabsf(peak));
  // One more in the bits is the next number away from zero; the sign is the true quotient's.
  uint32_t sign = (bits_of(peak) ^ bits_of(extreme)) & 0x80000000u;
  uint32_t next = sign | ((bits_of(scale) & 0x7FFFFFFFu) + 1);
  return too_small ? float_of_bits(next) : scale;
}

template <ScaleType T>
inline float round_scale(float scale, bool away) {
  if constexpr (T == ScaleType::float32) return scale;
  auto wide = T == ScaleType::bfloat16 ? float_of_bfloat16 : float_of_float16;
  uint16_t half = T == ScaleType::bfloat16 ? bfloat16_of_float(scale) : float16_of_float(scale);
  uint16_t next = static_cast<uint16_t>(half + 1);
  bool shrunk = __builtin_fabsf(wide(half)) < __builtin_fabsf(scale);
  return wide(away && shrunk ? next : half);
}

template <ScaleRule R>
inline float unrounded_scale(const Encoder& e, float greatest, float least) {
  if constexpr (R == ScaleRule::absmax) {
    float above = divide_outward(greatest, e.maximum), below = divide_outward(least, e.minimum);
    // A side on which the format has no level puts no bound on the scale.
    if (e.minimum >= 0) return above;
    if (e.maximum <= 0) return below;
    return above > below ? above : below;
  } else if constexpr (R == ScaleRule::magnitude) {
    return (greatest > -least ? greatest : -least) / e.maximum;
  } else {
    return divide_outward(greatest >= -least ? greatest : least, e.peak);
  }
}

template <ScaleRule R, ScaleType T>
inline void block_scales(const Encoder& e, const float* greatest, const float* least,
                         float* scales) {
  for (int64_t i = 0; i < kBlocks; ++i) {
    float scale = unrounded_scale<R>(e, greatest[i], least[i]);
    scales[i] = round_scale<T>(scale, e.rounds_away) + 0.0f;  // a zero is positive
  }
}

// Codes as bytes to packed bytes; a stretch of codes that begins on a whole byte.
inline void pack_codes(const uint8_t* codes, int64_t count, int bits, uint8_t* packed) {
  if (bits == 4) {
    int64_t pairs = count / 2;
    for (int64_t i = 0; i < pairs; ++i)
      packed[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
    if (count % 2) packed[pairs] = codes[count - 1];
    return;
  }
  uint32_t word = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    word |= static_cast<uint32_t>(codes[i]) << filled;
    for (filled += bits; filled >= 8; filled -= 8, word >>= 8)
      *packed++ = static_cast<uint8_t>(word);
  }
  if (filled) *packed = static_cast<uint8_t>(word);
}

inline void unpack_codes(const uint8_t* packed, int64_t count, int bits, uint8_t* codes) {
  if (bits == 4) {
    int64_t pairs = count / 2;
    for (int64_t i = 0; i < pairs; ++i) {
      codes[2 * i] = packed[i] & 15;
      codes[2 * i + 1] = packed[i] >> 4;
    }
    if (count % 2) codes[count - 1] = packed[pairs] & 15;
    return;
  }
  uint32_t word = 0;
  int held = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (held < bits) {
      word |= static_cast<uint32_t>(*packed++) << held;
      held += 8;
    }
    codes[i] = static_cast<uint8_t>(word & ((1u << bits) - 1));
    word >>= bits;
    held -= bits;
  }
}

// One row. Codes are packed by stretches, which end on whole bytes wherever blocks end.
template <ScaleRule R, ScaleType T>
void encode_row(const Encoder& e, Lanes& lanes, const float* x, int64_t columns,
                int64_t block_size, uint8_t* packed, float* scales) {
  uint8_t codes[kStretch];
  int64_t waiting = 0;
  int64_t blocks = (columns + block_size - 1) / block_size;
  // Codes need not wait as bytes where every block begins on one.
  bool by_pairs = e.bits == 4 && (block_size % 2 == 0 || blocks == 1);
  for (int64_t b = 0; b < blocks; b += kBlocks) {
    int64_t many = blocks - b < kBlocks ? blocks - b : kBlocks;
    float greatest[kBlocks] = {}, least[kBlocks] = {}, found[kBlocks];
    for (int64_t i = 0; i < many; ++i) {
      int64_t start = (b + i) * block_size;
      int64_t size = columns - start < block_size ? columns - start : block_size;
      lanes.extremes(x + start, size, &greatest[i], &least[i]);
    }
    block_scales<R, T>(e, greatest, least, found);
    for (int64_t i = 0; i < many; ++i) {
      int64_t start = (b + i) * block_size;
      int64_t size = columns - start < block_size ? columns - start : block_size;
      scales[b + i] = found[i];
      float divisor = found[i] == 0 ? __builtin_inff() : found[i];
      if (by_pairs) {
        lanes.encode_pairs(x + start, size, divisor, packed + start / 2);
        continue;
      }
      while (size > 0) {
        int64_t fit = kStretch - waiting < size ? kStretch - waiting : size;
        lanes.encode(x + start, fit, divisor, codes + waiting);
        start += fit;
        size -= fit;
        waiting += fit;
        if (waiting == kStretch) {
          pack_codes(codes, waiting, e.bits, packed);
          packed += kStretch * e.bits / 8;
          waiting = 0;
        }
      }
    }
  }
  pack_codes(codes, waiting, e.bits, packed);
}

template <ScaleRule R, ScaleType T>
bool encode_rows(const Encoder& e, const Rows& rows, int64_t first, int64_t last) {
  Lanes lanes(e);
  int64_t width = (rows.columns * e.bits + 7) / 8;
  int64_t blocks = (rows.columns + rows.block_size - 1) / rows.block_size;
  for (int64_t r = first; r < last; ++r) {
    encode_row<R, T>(e, lanes, rows.numbers + r * rows.columns, rows.columns, rows.block_size,
                     rows.packed + r * width, rows.scales + r * blocks);
  }
  return lanes.all_finite();
}

template <ScaleRule R>
bool encode_by_type(const Encoder& e, const Rows& rows, int64_t first, int64_t last) {
  switch (e.scale_type) {
    case ScaleType::bfloat16: return encode_rows<R, ScaleType::bfloat16>(e, rows, first, last);
    case ScaleType::float16: return encode_rows<R, ScaleType::float16>(e, rows, first, last);
    default: return encode_rows<R, ScaleType::float32>(e, rows, first, last);
  }
}

int encode(const Encoder& e, const Rows& rows, int64_t first, int64_t last) {
  bool finite = e.rule == ScaleRule::absmax ? encode_by_type<ScaleRule::absmax>(e, rows, first, last)
                : e.rule == ScaleRule::magnitude
                    ? encode_by_type<ScaleRule::magnitude>(e, rows, first, last)
                    : encode_by_type<ScaleRule::signed_peak>(e, rows, first, last);
  return finite ? 0 : kNotFinite;
}

template <class Out>
void decode_rows(const PackedRows& rows, const LookUp& look_up, int64_t first, int64_t last) {
  int64_t width = (rows.columns * rows.bits + 7) / 8;
  int64_t blocks = (rows.columns + rows.block_size - 1) / rows.block_size;
  // Pairs of codes need not be taken apart where every block begins on a byte.
  bool by_bytes = rows.bits == 4 && (rows.block_size % 2 == 0 || blocks == 1);
  uint8_t codes[kStretch];
  for (int64_t r = first; r < last; ++r) {
    const uint8_t* packed = rows.packed + r * width;
    const float* scales = rows.scales + r * blocks;
    Out* out = static_cast<Out*>(rows.out) + r * rows.columns;
    for (int64_t start = 0; start < rows.columns;) {
      // From here to the end of a block, or of a stretch of codes.
      int64_t b = start / rows.block_size, stop = (b + 1) * rows.block_size;
      int64_t place = start % kStretch;
      if (!by_bytes && place == 0) {
        int64_t count = rows.columns - start < kStretch ? rows.columns - start : kStretch;
        unpack_codes(packed + start * rows.bits / 8, count, rows.bits, codes);
      }
      if (stop > rows.columns) stop = rows.columns;
      if (!by_bytes && stop > start - place + kStretch) stop = start - place + kStretch;
      if (by_bytes) look_up.pairs(packed + start / 2, stop - start, scales[b], out + start);
      else look_up.bytes(codes + place, stop - start, scales[b], out + start);
      start = stop;
    }
  }
}

void decode(const PackedRows& rows, int64_t first, int64_t last) {
  // Streaming stores want whole, aligned vectors.
  bool whole = reinterpret_cast<uintptr_t>(rows.out) % 64 == 0 && rows.columns % 32 == 0 &&
               rows.block_size % 32 == 0;
  LookUp look_up(rows.table, rows.type, rows.stream && whole);
  if (rows.type == OutType::float32) decode_rows<float>(rows, look_up, first, last);
  else decode_rows<uint16_t>(rows, look_up, first, last);
  look_up.finish();
}

}  // namespace
