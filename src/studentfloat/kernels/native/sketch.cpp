#include "sketch.h"

#include <cstring>
#include <limits>
#include <vector>

namespace studentfloat {

namespace {

// Count above, sum of fractions below: one addition does both.
constexpr int kShift = 40;
constexpr int64_t kLanes = 16;

}  // namespace

Range sketch_range(const float* values, int64_t count) {
  int32_t zeros[kLanes] = {}, low[kLanes], high[kLanes] = {};
  float least[kLanes], most[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) {
    low[l] = std::numeric_limits<int32_t>::max();
    least[l] = std::numeric_limits<float>::infinity();
    most[l] = -least[l];
  }
  auto look = [&](int64_t i, int64_t l) {
    float v = values[i];
    int32_t bits;
    std::memcpy(&bits, &v, 4);
    bits &= 0x7FFFFFFF;
    zeros[l] += bits == 0;
    int32_t nonzero = bits == 0 ? std::numeric_limits<int32_t>::max() : bits;
    low[l] = nonzero < low[l] ? nonzero : low[l];
    high[l] = bits > high[l] ? bits : high[l];
    least[l] = v < least[l] ? v : least[l];
    most[l] = v > most[l] ? v : most[l];
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) look(i + l, l);
  for (; i < count; ++i) look(i, 0);
  Range range{0, static_cast<uint32_t>(low[0]), 0, least[0], most[0]};
  for (int64_t l = 0; l < kLanes; ++l) {
    range.zeros += zeros[l];
    if (static_cast<uint32_t>(low[l]) < range.lowest) range.lowest = static_cast<uint32_t>(low[l]);
    if (static_cast<uint32_t>(high[l]) > range.highest)
      range.highest = static_cast<uint32_t>(high[l]);
    if (least[l] < range.minimum) range.minimum = least[l];
    if (most[l] > range.maximum) range.maximum = most[l];
  }
  return range;
}

void sketch_tally(const float* values, int64_t count, int fraction_bits, int64_t first,
                  int64_t width, int64_t* counts, int64_t* fractions) {
  static thread_local std::vector<uint64_t> cells;
  cells.assign(static_cast<size_t>(2 * width), 0);
  const uint32_t mask = (1u << fraction_bits) - 1;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude == 0) continue;
    int64_t cell = static_cast<int64_t>(magnitude >> fraction_bits) - first +
                   (bits >> 31 ? width : 0);
    cells[static_cast<size_t>(cell)] += (uint64_t{1} << kShift) + (bits & mask);
  }
  for (int64_t c = 0; c < 2 * width; ++c) {
    uint64_t cell = cells[static_cast<size_t>(c)];
    counts[c] += static_cast<int64_t>(cell >> kShift);
    fractions[c] += static_cast<int64_t>(cell & ((uint64_t{1} << kShift) - 1));
  }
}

}  // namespace studentfloat
