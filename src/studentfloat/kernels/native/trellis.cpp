#include "trellis.h"

#include <cmath>
#include <vector>

#include "cpu.h"
#include "parallel.h"

namespace studentfloat {

namespace {

// Parts of a unit of the values, so that a square of 256 units fits in the costs.
constexpr float kFraction = 128;

uint32_t reversed(uint32_t state, int bits) {
  uint32_t turned = 0;
  for (int b = 0; b < bits; ++b) turned |= (state >> b & 1) << (bits - 1 - b);
  return turned;
}

int16_t fixed_point(float number) {
  float scaled = std::nearbyint(number * kFraction);
  scaled = scaled < -32767 ? -32767 : scaled > 32767 ? 32767 : scaled;
  return static_cast<int16_t>(scaled);
}

}  // namespace

void trellis_encode(const int8_t* values, int bits, int state_bits, const float* numbers,
                    int64_t count, int64_t length, int64_t window, uint8_t* codes, int threads) {
  int64_t states = int64_t{1} << state_bits, paths = states >> bits;
  std::vector<int16_t> table(states), rounded(count * length);
  for (int64_t s = 0; s < states; ++s) {
    uint32_t at = reversed(static_cast<uint32_t>(s), state_bits);
    table[at] = static_cast<int16_t>(values[s] * static_cast<int>(kFraction));
  }
  for (int64_t i = 0; i < count * length; ++i) rounded[i] = fixed_point(numbers[i]);
  Trellis trellis{bits, state_bits, table.data()};
  Sequences sequences{length, window < length ? window : length, rounded.data(), codes};
  const InstructionSet& set = active_set();
  parallel_for(count, threads, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> scratch(trellis_scratch_bytes(paths, length));
    set.encode_paths(trellis, sequences, first, last, scratch.data());
  });
}

void trellis_decode(const int8_t* values, int bits, int state_bits, const uint8_t* codes,
                    int64_t count, int64_t length, int8_t* out, int threads) {
  int64_t before = (state_bits + bits - 1) / bits - 1;
  int place = state_bits - bits;
  parallel_for(count, threads, [&](int64_t first, int64_t last) {
    for (int64_t q = first; q < last; ++q) {
      const uint8_t* ring = codes + q * length;
      uint32_t state = 0;
      for (int64_t age = before; age > 0; --age)
        state = state >> bits | static_cast<uint32_t>(ring[length - 1 - (age - 1) % length]) << place;
      for (int64_t i = 0; i < length; ++i) {
        state = state >> bits | static_cast<uint32_t>(ring[i]) << place;
        out[q * length + i] = values[state];
      }
    }
  });
}

}  // namespace studentfloat
