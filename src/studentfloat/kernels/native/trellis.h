// Codes with memory: the best path through a bitshift trellis (Viterbi, 1967).
//
// Number t of a sequence is read from a window of L bits over the sequence's stream of k bits a
// number, the newest on top: state(t) = state(t - 1) >> k | code(t) << (L - k). The stream is a
// ring, so the first windows reach back into the last codes (tail-biting; QTIP, arXiv 2406.11235,
// section 3 and algorithm 4).
//
// Everything here is whole numbers of 16 bits, so that every instruction set finds the same path.

#pragma once

#include <cstdint>

namespace studentfloat {

struct Trellis {
  int bits;                           // k, 1 to 4
  int state_bits;                     // L, at least max(2 k, k + kLeastPathBits), at most 16
  // 2**L values, that of state s at the place of s with its L bits in reverse order: the newest
  // code is then at the bottom, and the states that a code's place is taken from lie 2**(L - k)
  // apart.
  const int16_t* values;
};

constexpr int kLeastPathBits = 5;    // 2**(L - k) path costs fill whole registers

// Sequences of `length` numbers each, in the units of the values.
struct Sequences {
  int64_t length;
  int64_t window;                     // numbers about the seam that the first pass looks at
  const int16_t* numbers;
  uint8_t* codes;                     // one a byte
};

// A load of a whole register may reach beyond the last cost.
constexpr int64_t kMargin = 64;

inline int64_t trellis_scratch_bytes(int64_t paths, int64_t length) {
  return 2 * (paths * 2 + kMargin) + paths * length + length * 2;
}

// Encodes sequences [first, last). `scratch` holds trellis_scratch_bytes.
using EncodePaths = void (*)(const Trellis&, const Sequences&, int64_t first, int64_t last,
                             void* scratch);

void encode_paths_plain(const Trellis&, const Sequences&, int64_t, int64_t, void*);
#ifdef STUDENTFLOAT_X86
void encode_paths_avx2(const Trellis&, const Sequences&, int64_t, int64_t, void*);
void encode_paths_avx512(const Trellis&, const Sequences&, int64_t, int64_t, void*);
#endif

// Numbers in units of `values` (int8, 2**L of them, in the order of the states) to one code a
// byte. What is beyond 255.99 units counts as that.
void trellis_encode(const int8_t* values, int bits, int state_bits, const float* numbers,
                    int64_t count, int64_t length, int64_t window, uint8_t* codes, int threads);

// Sequences of `length` codes, one a byte, to the values.
void trellis_decode(const int8_t* values, int bits, int state_bits, const uint8_t* codes,
                    int64_t count, int64_t length, int8_t* out, int threads);

}  // namespace studentfloat
