// The nearest of a table of points. Included after `kWidth`, the floats of a register.
// No operation may be fused: the other instruction sets would round otherwise.

namespace {

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef int32_t Places __attribute__((vector_size(kWidth * 4)));

// Of some vectors of which the tables' registers are used together.
constexpr int64_t kTogether = 4;

template <int64_t N>
void nearest_of(const PointTable& t, const float* vectors, int64_t* found) {
  Floats most[N];
  Places place[N], at;
  for (int i = 0; i < kWidth; ++i) at[i] = i;
  for (int64_t v = 0; v < N; ++v) {
    most[v] = Floats{} - __builtin_inff();
    place[v] = at;
  }
  const float* points = t.points;
  for (int64_t p = 0; p < t.count; p += kWidth, at += kWidth) {
    Floats score[N], axis;
    __builtin_memcpy(&axis, points, sizeof axis);
    for (int64_t v = 0; v < N; ++v) score[v] = axis * vectors[v * t.dimension];
    for (int64_t a = 1; a < t.dimension; ++a) {
      __builtin_memcpy(&axis, points + a * kWidth, sizeof axis);
      for (int64_t v = 0; v < N; ++v) score[v] += axis * vectors[v * t.dimension + a];
    }
    __builtin_memcpy(&axis, points + t.dimension * kWidth, sizeof axis);
    points += (t.dimension + 1) * kWidth;
    for (int64_t v = 0; v < N; ++v) {
      Floats net = score[v] - axis;
      Places more = net > most[v];
      most[v] = more ? net : most[v];
      place[v] = more ? at : place[v];
    }
  }
  for (int64_t v = 0; v < N; ++v) {
    int best = 0;
    for (int i = 1; i < kWidth; ++i) {
      bool first = most[v][i] == most[v][best] && place[v][i] < place[v][best];
      if (most[v][i] > most[v][best] || first) best = i;
    }
    found[v] = place[v][best];
  }
}

void nearest_by_width(const PointTable& t, const float* vectors, int64_t first, int64_t last,
                      int64_t* found) {
  int64_t v = first;
  for (; v + kTogether <= last; v += kTogether)
    nearest_of<kTogether>(t, vectors + v * t.dimension, found + v);
  for (; v < last; ++v) nearest_of<1>(t, vectors + v * t.dimension, found + v);
}

}  // namespace
