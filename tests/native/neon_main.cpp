// Holds a NEON set to plain C++ (scripts/test-neon). Arguments: the sets that there should be, best
// first; the best is tested. Ends with 1 where a number differs by more than it may:
//
//   int8      not at all: sums of integers are exact, and what follows is rounded alike
//   floats    not at all where no sum rounds: one activation of 1 in a column of zeros, or small
//             integers under scales that are powers of two; otherwise from a sum in double by
//             (block + blocks + 3) * 2**-24 times the sum of the magnitudes, which is what
//             rounding every product and every sum can do
//   codes and dequantized numbers not at all

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "matrix.h"

using namespace studentfloat;

namespace {

#include "scalars.inl"

std::mt19937 random_bits(20240503);
int64_t compared = 0, different = 0;

float uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(random_bits()) * 0x1p-32f;
}

int64_t integer(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random_bits() % static_cast<uint64_t>(high - low + 1));
}

float as_bfloat16(float value) { return float_of_bfloat16(bfloat16_of_float(value)); }

void expect(bool holds, const std::string& what, int64_t at, double is, double should_be) {
  ++compared;
  if (holds) return;
  if (++different <= 10)
    std::printf("%s: number %lld is %.9g, should be %.9g\n", what.c_str(),
                static_cast<long long>(at), is, should_be);
}

struct Shape {
  int64_t rows, columns, block;
};

enum class Numbers { any, integers, one_hot };
enum class Table { any, symmetric, extreme };

// A weight with all that the oracle needs of it.
struct Weight {
  Shape shape;
  int bits;
  int64_t blocks;
  std::vector<uint8_t> codes, packed;
  std::vector<float> scales;
  float table[16] = {};
  int8_t table_int8[16] = {};
  float step = 1.0f;

  Weight(Shape s, int code_bits, ScaleType type, Table kind, bool integers)
      : shape(s), bits(code_bits), blocks((s.columns + s.block - 1) / s.block) {
    int64_t bytes = (s.columns * bits + 7) / 8;
    packed.resize(static_cast<size_t>(s.rows * bytes));
    for (int64_t r = 0; r < s.rows; ++r) {
      for (int64_t i = 0; i < s.columns; ++i) {
        auto code = static_cast<unsigned>(integer(0, (1 << bits) - 1));
        codes.push_back(static_cast<uint8_t>(code));
        for (int b = 0; b < bits; ++b)
          packed[static_cast<size_t>(r * bytes + (i * bits + b) / 8)] |=
              static_cast<uint8_t>((code >> b & 1) << (i * bits + b) % 8);
      }
    }
    for (int64_t i = 0; i < s.rows * blocks; ++i) {
      float scale = integers ? std::ldexp(1.0f, static_cast<int>(integer(-3, 3)))
                             : uniform(0.01f, 4.0f);
      if (type == ScaleType::bfloat16) scale = as_bfloat16(scale);
      if (type == ScaleType::float16) scale = float_of_float16(float16_of_float(scale));
      scales.push_back(scale);
    }
    fill_tables(kind, integers);
  }

  void fill_tables(Table kind, bool integers) {
    int count = 1 << bits;
    for (int i = 0; i < count; ++i) {
      table[i] = integers ? static_cast<float>(integer(-8, 7)) : uniform(-1.0f, 1.0f);
      if (kind == Table::symmetric && i >= count / 2) table[i] = -table[count - 1 - i];
    }
    float peak = 0;
    for (float value : table) peak = std::fmax(peak, std::fabs(value));
    step = peak > 0 ? peak / 127 : 1.0f;
    for (int i = 0; i < count; ++i) {
      // The worst for sums of products in 16 bits.
      if (kind == Table::extreme) table_int8[i] = static_cast<int8_t>(i % 5 ? -128 : 127);
      else table_int8[i] = static_cast<int8_t>(std::lrint(table[i] / step));
    }
  }

  PackedMatrix matrix() const {
    return {packed.data(), scales.data(), table, table_int8, step,
            shape.rows,    shape.columns, shape.block, bits};
  }
};

std::vector<float> activations(const Weight& w, Numbers kind, int64_t count) {
  std::vector<float> x(static_cast<size_t>(count * w.shape.columns));
  for (size_t i = 0; i < x.size(); ++i) {
    if (kind == Numbers::any) x[i] = as_bfloat16(uniform(-3.0f, 3.0f));
    if (kind == Numbers::integers) x[i] = static_cast<float>(integer(-8, 8));
  }
  if (kind == Numbers::one_hot)
    for (int64_t c = 0; c < count; ++c)
      x[static_cast<size_t>(c * w.shape.columns + integer(0, w.shape.columns - 1))] = 1.0f;
  return x;
}

std::vector<float> product(const PackedMatrix& matrix, const char* set, const std::vector<float>& x,
                           int64_t count, Arithmetic arithmetic, bool halves) {
  use_set(set);
  auto size = static_cast<size_t>(count * matrix.view().rows);
  std::vector<float> out(size, NAN);
  if (!halves) {
    matrix.multiply(x.data(), false, count, out.data(), arithmetic, 1);
    return out;
  }
  std::vector<uint16_t> short_x, short_out(size);
  for (float value : x) short_x.push_back(bfloat16_of_float(value));
  matrix.multiply(short_x.data(), true, count, short_out.data(), arithmetic, 1);
  for (size_t i = 0; i < size; ++i) out[i] = float_of_bfloat16(short_out[i]);
  return out;
}

void check_int8(const Weight& w, const char* set, const std::vector<float>& x, int64_t count,
                const std::string& what) {
  PackedMatrix matrix = w.matrix();
  for (bool halves : {false, true}) {
    auto plain = product(matrix, "plain", x, count, Arithmetic::int8, halves);
    auto ours = product(matrix, set, x, count, Arithmetic::int8, halves);
    for (size_t i = 0; i < ours.size(); ++i)
      expect(bits_of(ours[i]) == bits_of(plain[i]), what + " int8", static_cast<int64_t>(i),
             ours[i], plain[i]);
  }
}

// Plain C++ too is held to the sum in double: a mistake that both share would not show otherwise.
void check_floats(const Weight& w, const char* set, const std::vector<float>& x, int64_t count,
                  bool exact, const std::string& what) {
  PackedMatrix matrix = w.matrix();
  const Shape& s = w.shape;
  int64_t roundings = (s.block < s.columns ? s.block : s.columns) + w.blocks + 3;
  double unit = exact ? 0.0 : static_cast<double>(roundings) * 0x1p-24;
  for (Arithmetic arithmetic : {Arithmetic::float32, Arithmetic::bfloat16}) {
    float table[16];
    for (int i = 0; i < 16; ++i)
      table[i] = arithmetic == Arithmetic::float32 ? w.table[i] : as_bfloat16(w.table[i]);
    auto plain = product(matrix, "plain", x, count, arithmetic, false);
    auto ours = product(matrix, set, x, count, arithmetic, false);
    auto rounded = product(matrix, set, x, count, arithmetic, true);
    for (int64_t at = 0; at < count * s.rows; ++at) {
      int64_t c = at / s.rows, r = at % s.rows;
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < s.columns; ++i) {
        double term = static_cast<double>(table[w.codes[static_cast<size_t>(r * s.columns + i)]]) *
                      w.scales[static_cast<size_t>(r * w.blocks + i / s.block)] *
                      x[static_cast<size_t>(c * s.columns + i)];
        sum += term;
        magnitude += std::fabs(term);
      }
      // One product alone is rounded to float32, as the oracle's is then.
      if (exact) sum = static_cast<float>(sum);
      auto place = static_cast<size_t>(at);
      std::string name = what + (arithmetic == Arithmetic::float32 ? " float32" : " bfloat16");
      expect(std::fabs(ours[place] - sum) <= unit * magnitude, name, at, ours[place], sum);
      expect(std::fabs(plain[place] - sum) <= unit * magnitude, name + " (plain)", at,
             plain[place], sum);
      expect(rounded[place] == as_bfloat16(ours[place]), name + " to bfloat16", at, rounded[place],
             ours[place]);
    }
  }
}

void check_dequantized(const Weight& w, const char* set, const std::string& what) {
  PackedMatrix matrix = w.matrix();
  for (OutType type : {OutType::float32, OutType::bfloat16, OutType::float16}) {
    size_t size = w.codes.size() * (type == OutType::float32 ? 4 : 2);
    std::vector<uint8_t> plain(size), ours(size);
    use_set("plain");
    matrix.dequantize(0, w.shape.rows, type, plain.data(), 1);
    use_set(set);
    matrix.dequantize(0, w.shape.rows, type, ours.data(), 1);
    for (size_t i = 0; i < size; ++i)
      expect(ours[i] == plain[i], what + " dequantized", static_cast<int64_t>(i), ours[i],
             plain[i]);
  }
}

void check_encoded(const char* set, Shape s, ScaleType type, const std::string& what) {
  Encoder encoder{};
  for (int i = 0; i < 16; ++i) {
    encoder.thresholds[i] = i < 15 ? static_cast<float>(i - 7) / 7.5f : INFINITY;
    encoder.codes[i] = static_cast<uint8_t>(i);
  }
  encoder.bits = 4;
  encoder.thresholds_used = 15;
  encoder.rule = ScaleRule::absmax;
  encoder.maximum = encoder.peak = 1.0f;
  encoder.minimum = -1.0f;
  encoder.scale_type = type;
  std::vector<float> numbers(static_cast<size_t>(s.rows * s.columns));
  for (float& number : numbers) number = uniform(-5.0f, 5.0f);
  auto blocks = static_cast<size_t>(s.rows * ((s.columns + s.block - 1) / s.block));
  auto bytes = static_cast<size_t>(s.rows * ((s.columns + 1) / 2));
  std::vector<uint8_t> codes[2];
  std::vector<float> scales[2];
  const char* names[2] = {"plain", set};
  for (int i = 0; i < 2; ++i) {
    codes[i].resize(bytes);
    scales[i].resize(blocks);
    use_set(names[i]);
    Rows rows{s.columns, s.block, numbers.data(), codes[i].data(), scales[i].data()};
    expect(active_set().encode(encoder, rows, 0, s.rows) == 0, what + " encodes", 0, 1, 0);
  }
  for (size_t i = 0; i < bytes; ++i)
    expect(codes[0][i] == codes[1][i], what + " codes", static_cast<int64_t>(i), codes[1][i],
           codes[0][i]);
  for (size_t i = 0; i < blocks; ++i)
    expect(scales[0][i] == scales[1][i], what + " scales", static_cast<int64_t>(i), scales[1][i],
           scales[0][i]);
}

// Whole blocks and not, whole lines and not, more lines than share an int8 step, whole rows.
const Shape kShapes[] = {
    {16, 16, 16},   {40, 64, 16},   {37, 96, 32},   {3, 128, 128}, {1, 203, 64},  {33, 200, 64},
    {18, 75, 25},   {5, 1, 16},     {20, 7, 16},    {7, 300, 300}, {6, 523, 256}, {17, 1040, 1040}};

void check(const char* set) {
  for (const Shape& s : kShapes) {
    for (ScaleType type : {ScaleType::float32, ScaleType::bfloat16, ScaleType::float16}) {
      std::string name = std::string(set) + " " + std::to_string(s.rows) + " x " +
                         std::to_string(s.columns) + " in blocks of " + std::to_string(s.block);
      check_encoded(set, s, type, name);
      for (int bits : {4, 3, 2}) {
        Weight any(s, bits, type, bits == 3 ? Table::symmetric : Table::any, false);
        Weight whole(s, bits, type, bits == 4 ? Table::symmetric : Table::any, true);
        Weight extreme(s, bits, type, Table::extreme, false);
        std::string what = name + ", " + std::to_string(bits) + " bits";
        check_dequantized(any, set, what);
        for (int64_t count : {1, 2, 3, 13}) {
          if (bits < 4 && count > 1) continue;  // they differ in how they are repacked alone
          std::string here = what + ", columns: " + std::to_string(count);
          auto x = activations(any, Numbers::any, count);
          check_int8(any, set, x, count, here);
          check_int8(whole, set, x, count, here);
          std::fill(x.begin(), x.end(), 1.0f);
          check_int8(extreme, set, x, count, here + ", extreme");
          check_floats(any, set, activations(any, Numbers::any, count), count, false, here);
          check_floats(any, set, activations(any, Numbers::one_hot, count), count, true,
                       here + ", one-hot");
          check_floats(whole, set, activations(whole, Numbers::integers, count), count, true,
                       here + ", integers");
        }
      }
    }
  }
}

}  // namespace

int main(int count, char** names) {
  const InstructionSet* sets[3];
  int have = available_sets(sets);
  bool as_expected = have == count - 1 && &active_set() == sets[0];
  for (int i = 0; i < have && as_expected; ++i)
    as_expected = std::strcmp(sets[i]->name, names[i + 1]) == 0;
  if (!as_expected) {
    std::printf("instruction sets here:");
    for (int i = 0; i < have; ++i) std::printf(" %s", sets[i]->name);
    std::printf("\n");
    return 1;
  }
  check(sets[0]->name);
  std::printf("%s: %lld numbers compared\n", sets[0]->name, static_cast<long long>(compared));
  if (different > 0) std::printf("%lld differ\n", static_cast<long long>(different));
  return different > 0;
}
