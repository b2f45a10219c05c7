// Which instruction sets this machine can run, and which one is in use.

#pragma once

#include "kernels.h"

namespace studentfloat {

// Best first; ends with the plain one.
int available_sets(const InstructionSet** sets);
const InstructionSet& active_set();
// False if there is no such set here.
bool use_set(const char* name);

}  // namespace studentfloat
