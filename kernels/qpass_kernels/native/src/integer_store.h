// How results leave a block.
#pragma once

#include <cstring>

#include "half.h"
#include "integer.h"

// Loops over registers are unrolled: an array indexed in a loop would be memory.
#define QPASS_UNROLL _Pragma("GCC unroll 16")

namespace qpass {

inline void store_values(const float* from, int64_t count, void* out, int64_t at, Float type) {
  auto* halves = static_cast<uint16_t*>(out) + at;
  switch (type) {
    case Float::kFloat32:
      std::memcpy(static_cast<float*>(out) + at, from, count * sizeof(float));
      break;
    case Float::kBfloat16:
      for (int64_t i = 0; i < count; ++i) halves[i] = to_bfloat16(from[i]);
      break;
    case Float::kFloat16:
      for (int64_t i = 0; i < count; ++i) halves[i] = to_float16(from[i]);
      break;
  }
}

// Writes a row of a block of `columns` columns, as far as the result has them.
inline void store_row(const Operands& p, const Block& at, int64_t row, const float* totals,
                      int64_t columns) {
  const int64_t first = (at.batch * p.m + at.row + row) * p.n + at.column;
  store_values(totals, std::min(columns, p.n - at.column), p.out, first, p.type);
}

}  // namespace qpass
