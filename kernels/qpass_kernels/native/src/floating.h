// A product of floats on the left and codes on the right, and how its operands are cut.
//
// K is cut into panels and a panel into blocks: what one step turns into registers of floats. The
// left operand is copied in that form, [batch][panel][m][k of the panel]: a block in the order in
// which its codes come out of registers, the last one filled up with zeros.
//
// An element of the result is the sum of its panels' sums, in their order; in a panel, lane i of a
// register adds up every so many products. None of this depends on how many rows or threads there
// are, nor on where a row lies.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu.h"
#include "sizes.h"

namespace qpass::floating {

constexpr int64_t kPanel = 1024;  // a multiple of every block
constexpr int kColumns = 4;       // of the result that are computed at a time

// Those of a few bits lie without gaps, the first in the lowest bits of their row's first byte, and
// are places in a table of 16 floats.
enum Codes { kInt8, kFourBits, kThreeBits, kTwoBits, kMinifloats, kKinds };

constexpr int64_t kBits[kKinds] = {8, 4, 3, 2, 8};

// How an 8-bit float is made up: bits of the mantissa, bias of the exponent, the greatest magnitude
// that is a number, and the byte that is NaN where only one is.
struct Minifloat {
  int32_t mantissa, bias, largest, nan;
};

struct Operands {
  int64_t batch, m, n, k;
  int64_t group;   // codes of K that share a scale
  int64_t groups;  // scales of a row; one multiplies the sum, several the codes
  Codes codes;
  const float* table;      // of codes of a few bits; of fewer than four, all there is repeated
  Minifloat minifloat;     // of kMinifloats
  const float* lhs;        // [batch, m, k]
  const uint8_t* rhs;      // [batch, n, row_bytes]
  const float* rhs_scale;  // [batch, n, groups]
  float* out;              // [batch, m, n]

  bool grouped() const { return groups > 1; }
  int64_t row_bytes() const { return ceil_div(k * kBits[codes], 8); }
};

// A part of the result that one thread computes.
struct Block {
  int64_t batch, row, rows, column, columns;
};

// What an instruction set offers: functions for each of `Codes`. `lhs` is the ordered copy.
struct Form {
  Isa isa;
  int64_t block[kKinds];  // codes of it
  void (*order_row[kKinds])(const Operands&, int64_t row, float* lhs);
  void (*multiply[kKinds])(const Operands&, const float* lhs, const Block&);
};

extern const Form kPortable;
#if defined(__x86_64__)
extern const Form kAvx2, kAvx512;
#elif defined(__aarch64__)
extern const Form kNeon;
#endif

}  // namespace qpass::floating
