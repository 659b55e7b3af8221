// A product of integer codes, and how its operands are cut for registers.
//
// K is cut into units: four bytes of a row of the right operand, so 4 or 8 codes. A group begins
// with a new unit; the left operand is copied in that form, filled up with zeros, and whatever a
// unit of the right operand holds beyond its group or row is multiplied by them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu.h"
#include "sizes.h"

namespace qpass {

enum class Float { kFloat32, kBfloat16, kFloat16 };

struct Operands {
  int64_t batch, m, n, k;
  int64_t group;        // codes of K that share a scale
  int64_t bits;         // of a code on the right
  const int8_t* lhs;    // [batch, m, k]
  const uint8_t* rhs;   // [batch, n, k * bits / 8]
  const float* lhs_scale;  // [batch, m, lhs_groups]
  const float* rhs_scale;  // [batch, n, rhs_groups]
  int64_t lhs_groups, rhs_groups;
  void* out;  // [batch, m, n]
  Float type;
};

struct Units {
  int64_t codes;      // in a unit
  int64_t groups;
  int64_t per_group;
  int64_t count;      // in all
  int64_t run;        // units of a row that lie one behind another
  int64_t run_bytes;
  int64_t row_bytes;

  explicit Units(const Operands& p)
      : codes(32 / p.bits),
        groups(ceil_div(p.k, p.group)),
        per_group(ceil_div(p.group, codes)),
        count((groups - 1) * per_group + ceil_div(p.k - (groups - 1) * p.group, codes)),
        run(p.group % codes == 0 ? count : per_group),
        run_bytes(p.group % codes == 0 ? count * 4 : p.group * p.bits / 8),
        row_bytes(p.k * p.bits / 8) {}

  int64_t end_of_group(int64_t group) const { return std::min((group + 1) * per_group, count); }
};

// The left operand as the instruction set wants it: codes widened, ordered and filled up.
struct Packed {
  void* codes;      // [batch * m, row_codes]
  int32_t* starts;  // [batch * m, groups]: what the sum of a group begins with
};

// A part of the result that one thread computes.
struct Block {
  int64_t batch, row, rows, column;
};

// One way of an instruction set to multiply.
struct Form {
  Isa isa;
  int64_t columns;     // of a block
  int64_t code_bytes;  // of a packed code of the left operand
  bool (*takes)(const Operands&);
  int64_t (*row_codes)(const Operands&);  // of a packed row
  void (*pack_row)(const Operands&, int64_t row, const Packed&);
  void (*multiply)(const Operands&, const Packed&, const Block&);
};

extern const Form kPortableInteger;
#if defined(__x86_64__)
extern const Form kVnniFew, kVnniInteger, kAvx2Few, kAvx2Integer;
#elif defined(__aarch64__)
extern const Form kNeonInteger, kNeonDotInteger;
#endif

}  // namespace qpass
