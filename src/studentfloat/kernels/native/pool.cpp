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
// A larger buffer than this many times what is asked for stays for somebody else.
constexpr size_t kWaste = 2;

struct Pool {
  std::mutex mutex;
  std::vector<Buffer> kept;  // the one given back last is last

  size_t bytes() const {
    size_t sum = 0;
    for (const Buffer& buffer : kept) sum += buffer.size();
    return sum;
  }
};

// Never destroyed: arrays may outlive everything else of the process.
Pool& pool() {
  static Pool& only = *new Pool;
  return only;
}

void mark_reclaimable(const Buffer& buffer) {
#if defined(MADV_FREE)
  // Buffers of this size begin on a huge page and end with one.
  if (buffer.size() >= kHugePage) madvise(buffer.data(), buffer.size(), MADV_FREE);
#else
  (void)buffer;
#endif
}

}  // namespace

Buffer take_pooled(size_t size) {
  Pool& all = pool();
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    auto best = all.kept.end();
    for (auto it = all.kept.begin(); it != all.kept.end(); ++it) {
      bool fits = it->size() >= size && it->size() / kWaste <= size;
      if (fits && (best == all.kept.end() || it->size() <= best->size())) best = it;
    }
    if (best != all.kept.end()) {
      Buffer found = std::move(*best);
      all.kept.erase(best);
      return found;
    }
  }
  return Buffer(size);
}

void give_pooled(Buffer buffer) {
  if (buffer.size() > kMostKept) return;
  mark_reclaimable(buffer);
  Pool& all = pool();
  std::vector<Buffer> dropped;  // freed after the lock
  std::lock_guard<std::mutex> lock(all.mutex);
  all.kept.push_back(std::move(buffer));
  // The oldest go first.
  while (all.bytes() > kMostKept) {
    dropped.push_back(std::move(all.kept.front()));
    all.kept.erase(all.kept.begin());
  }
}

size_t clear_pool() {
  Pool& all = pool();
  std::vector<Buffer> dropped;
  std::lock_guard<std::mutex> lock(all.mutex);
  size_t bytes = all.bytes();
  dropped.swap(all.kept);
  return bytes;
}

}  // namespace studentfloat
