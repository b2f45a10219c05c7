// Large buffers that are kept for the next who asks.
//
// The system clears fresh memory before it hands it out, which takes longer than dequantizing into
// it. What is given back here is kept and, but for the last one, marked as free to reclaim
// (MADV_FREE): a system short of memory takes it without asking, and whoever takes it before that
// finds its pages still there.

#pragma once

#include <cstddef>

#include "matrix.h"

namespace studentfloat {

// Of at least `size` bytes; what they hold is left over. Throws std::bad_alloc.
Buffer take_pooled(size_t size);
// Keeps the buffer, or the larger part of all kept, up to a limit.
void give_pooled(Buffer buffer);
// Gives the system back all that is kept; returns how many bytes.
size_t clear_pool();

}  // namespace studentfloat
