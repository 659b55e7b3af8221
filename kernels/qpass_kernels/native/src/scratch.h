// Memory that a thread keeps from one block to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace qpass {

constexpr size_t kLine = 64;  // bytes of a cache line, and of the widest vector

// At least `bytes` bytes, at the start of a cache line; whatever the thread had before is lost.
inline char* scratch(size_t bytes) {
  thread_local std::unique_ptr<char[]> memory;
  thread_local size_t size = 0;
  if (size < bytes + kLine) {
    size = bytes + kLine;
    memory.reset(new char[size]);
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (kLine - address % kLine) % kLine;
}

}  // namespace qpass
