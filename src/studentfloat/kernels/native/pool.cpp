#include "pool.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace studentfloat {

namespace {

constexpr size_t kMostKept = size_t{256} << 20;
// The last one, unless larger, is not marked as free to reclaim: where the system had no huge pages
// for it, marking takes as long as dequantizing.
constexpr size_t kMostAsItIs = size_t{128} << 20;
// A larger buffer than this many times what is asked for stays for somebody else.
constexpr size_t kWaste = 2;

struct Kept {
  Buffer buffer;
  bool reclaimable;

  void mark() {
#if defined(MADV_FREE)
    // Buffers of this size begin on a huge page and end with one.
    if (!reclaimable && buffer.size() >= kHugePage)
      madvise(buffer.data(), buffer.size(), MADV_FREE);
#endif
    reclaimable = true;
  }
};

struct Pool {
  std::mutex mutex;
  std::vector<Kept> kept;  // the one given back last is last

  size_t bytes() const {
    size_t sum = 0;
    for (const Kept& one : kept) sum += one.buffer.size();
    return sum;
  }
};

// Never destroyed: arrays may outlive everything else of the process.
Pool& pool() {
  static Pool& only = *new Pool;
  return only;
}

}  // namespace

Buffer take_pooled(size_t size) {
  Pool& all = pool();
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    auto best = all.kept.end();
    for (auto it = all.kept.begin(); it != all.kept.end(); ++it) {
      size_t its = it->buffer.size();
      bool fits = its >= size && its / kWaste <= size;
      if (fits && (best == all.kept.end() || its <= best->buffer.size())) best = it;
    }
    if (best != all.kept.end()) {
      Buffer found = std::move(best->buffer);
      all.kept.erase(best);
      return found;
    }
  }
  return Buffer(size);
}

void give_pooled(Buffer buffer) {
  if (buffer.size() > kMostKept) return;
  Pool& all = pool();
  std::vector<Kept> dropped;  // freed after the lock
  std::lock_guard<std::mutex> lock(all.mutex);
  if (!all.kept.empty()) all.kept.back().mark();
  all.kept.push_back({std::move(buffer), false});
  if (all.kept.back().buffer.size() > kMostAsItIs) all.kept.back().mark();
  // The oldest go first.
  while (all.bytes() > kMostKept) {
    dropped.push_back(std::move(all.kept.front()));
    all.kept.erase(all.kept.begin());
  }
}

size_t clear_pool() {
  Pool& all = pool();
  std::vector<Kept> dropped;
  std::lock_guard<std::mutex> lock(all.mutex);
  size_t bytes = all.bytes();
  dropped.swap(all.kept);
  return bytes;
}

}  // namespace studentfloat
