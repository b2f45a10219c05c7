// Histograms over the leading bits of float32; see studentfloat.statistics.sketch.

#pragma once

#include <cstdint>

namespace studentfloat {

struct Range {
  int64_t zeros;
  uint32_t lowest, highest;  // magnitudes as bits, of what is not zero; lowest > highest if none
  float minimum, maximum;    // meaningless where a number is NaN
};

Range sketch_range(const float* values, int64_t count);

// Adds to the cell of each number that is not zero: one to its count, and its lowest bits to its
// fraction. Cells are by sign (positive first) and magnitude bits >> fraction_bits, `width` of
// them a sign, the first being `first`. At most 2**24 numbers of at most 16 fraction bits.
void sketch_tally(const float* values, int64_t count, int fraction_bits, int64_t first,
                  int64_t width, int64_t* counts, int64_t* fractions);

}  // namespace studentfloat
