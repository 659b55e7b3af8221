// Which of a kernel's forms, one or more for each instruction set, is taken.
#pragma once

#include <string_view>

#include "cpu.h"

namespace qpass {

// Whether a form for that instruction set may be taken: the machine has it, and it is the one that
// is asked for by name, if any is.
inline bool may_take(Isa isa, std::string_view name) {
  return (name.empty() || name == name_of(isa)) && has(isa);
}

}  // namespace qpass
