// The best path, over the vectors of one instruction set. Included after a struct `Lanes`:
//   kCount        path costs of 16 bits in a vector
//   Vector        that many, unsigned
//   expand<K>(p)  lane i holds p[i >> K]
//   fill(v)
//   cost(x, v)    d = x - v[i], held within 16 bits; (d * d + 2**14) >> 15
//   add(a, b)     held at 65535
//   subtract(a, b)
//   Winner<D>     of 2**D candidates: the least cost, and which of them (the first of equals)
//   first(v), better<D>(a, b), store<K>(winner, costs, back, path), minimum(v, w), least(v)
//   choice<K>(back, path)
//
// A "path" is what of a state the next one keeps: its newest L - k bits. Each is reached from 2**k
// states that differ in their oldest k bits.

namespace {

// Path costs twice, a byte for each number and path, the numbers about the seam.
struct Scratch {
  uint16_t* costs[2];
  uint8_t* back;
  int16_t* about_seam;

  Scratch(void* room, int64_t paths, int64_t length) {
    auto bytes = static_cast<uint8_t*>(room);
    costs[0] = reinterpret_cast<uint16_t*>(bytes);
    costs[1] = reinterpret_cast<uint16_t*>(bytes + paths * 2 + kMargin);
    back = bytes + 2 * (paths * 2 + kMargin);
    about_seam = reinterpret_cast<int16_t*>(back + paths * length);
  }
};

template <int K, int D>
ALWAYS_INLINE Lanes::Winner<D> best_of(const uint16_t* costs, const int16_t* values,
                                       Lanes::Vector x, int64_t state, int64_t apart) {
  if constexpr (D == 0) {
    return Lanes::first(
        Lanes::add(Lanes::expand<K>(costs + (state >> K)), Lanes::cost(x, values + state)));
  } else {
    auto lower = best_of<K, D - 1>(costs, values, x, state, apart);
    auto upper = best_of<K, D - 1>(costs, values, x, state + (apart << (D - 1)), apart);
    return Lanes::better<D>(lower, upper);
  }
}

// One number further. Costs are kept relative to `base`; returns the least of the new ones.
template <int K>
uint16_t step(const Trellis& t, const uint16_t* costs, int16_t number, uint16_t base,
              uint16_t* next, uint8_t* back) {
  int64_t paths = int64_t{1} << (t.state_bits - K);
  Lanes::Vector x = Lanes::fill(static_cast<uint16_t>(number)), least = Lanes::fill(65535),
                down = Lanes::fill(base);
  for (int64_t p = 0; p < paths; p += Lanes::kCount) {
    auto winner = best_of<K, K>(costs, t.values, x, p, paths);
    winner.cost = Lanes::subtract(winner.cost, down);
    least = Lanes::minimum(least, winner.cost);
    Lanes::store<K>(winner, next, back, p);
  }
  return Lanes::least(least);
}

// From `costs[0]`, through the numbers, to the costs of all paths: which of the two holds them.
template <int K>
int forward(const Trellis& t, const int16_t* numbers, int64_t count, const Scratch& s) {
  int64_t paths = int64_t{1} << (t.state_bits - K);
  uint16_t base = 0;
  for (int64_t i = 0; i < count; ++i)
    base = step<K>(t, s.costs[i % 2], numbers[i], base, s.costs[(i + 1) % 2], s.back + i * paths);
  return static_cast<int>(count % 2);
}

// The path that `end` came along, `steps` numbers before number `last`. Fills in codes, if asked.
template <int K>
uint32_t backward(const Trellis& t, const Scratch& s, uint32_t end, int64_t last, int64_t steps,
                  uint8_t* codes) {
  int64_t paths = int64_t{1} << (t.state_bits - K);
  uint32_t path = end;
  for (int64_t i = last; i > last - steps; --i) {
    if (codes) {
      uint32_t code = path & ((1u << K) - 1), turned = 0;
      for (int b = 0; b < K; ++b) turned |= (code >> b & 1) << (K - 1 - b);
      codes[i] = static_cast<uint8_t>(turned);
    }
    uint32_t oldest = Lanes::choice<K>(s.back + i * paths, path);
    path = (path | oldest << (t.state_bits - K)) >> K;
  }
  return path;
}

template <int K>
void encode_paths(const Trellis& t, const Sequences& s, int64_t first, int64_t last,
                  void* scratch) {
  int64_t paths = int64_t{1} << (t.state_bits - K), n = s.length;
  Scratch own(scratch, paths, n);
  int64_t before = s.window / 2;
  for (int64_t q = first; q < last; ++q) {
    const int16_t* numbers = s.numbers + q * n;
    // First pass: the numbers about the seam, the last ones before the first; where the best path
    // crosses it.
    for (int64_t i = 0; i < s.window; ++i) own.about_seam[i] = numbers[(n - before + i) % n];
    for (int64_t p = 0; p < paths; ++p) own.costs[0][p] = 0;
    const uint16_t* costs = own.costs[forward<K>(t, own.about_seam, s.window, own)];
    uint32_t end = 0;
    for (int64_t p = 1; p < paths; ++p)
      if (costs[p] < costs[end]) end = static_cast<uint32_t>(p);
    uint32_t seam = backward<K>(t, own, end, s.window - 1, s.window - before, nullptr);
    // Second pass: all of them, from that path and to it.
    for (int64_t p = 0; p < paths; ++p) own.costs[0][p] = 65535;
    own.costs[0][seam] = 0;
    forward<K>(t, numbers, n, own);
    backward<K>(t, own, seam, n - 1, n, s.codes + q * n);
  }
}

void encode_paths_by_bits(const Trellis& t, const Sequences& s, int64_t first, int64_t last,
                          void* scratch) {
  switch (t.bits) {
    case 1:
      return encode_paths<1>(t, s, first, last, scratch);
    case 2:
      return encode_paths<2>(t, s, first, last, scratch);
    case 3:
      return encode_paths<3>(t, s, first, last, scratch);
    default:
      return encode_paths<4>(t, s, first, last, scratch);
  }
}

}  // namespace
