// How the operands of a product of few rows are cut, and how the left one is copied.
//
// Included by the file of each instruction set, with a type V: see integer_few.h.
#pragma once

#include <numeric>

#include "integer.h"

namespace qpass {

// Rows of the right operand that are read side by side: fewer than the ways of a cache.
constexpr int64_t kSide = 4;

// How a row of the right operand is cut: into segments, whose lanes are summed apart, of strips. A
// segment is a group, or as many groups as lie in a strip. The left operand is copied in whole
// strips, filled up with zeros: what a strip holds beyond its segment is multiplied by them.
template <class V>
struct Strips {
  static constexpr int64_t kTogether = V::kLanes / kSide;  // segments that are reduced together

  int64_t codes;  // in a strip
  int64_t row_bytes;
  int64_t bytes;     // from one segment to the next
  int64_t each;      // strips of a segment
  int64_t segments;  // of a row
  int64_t groups;    // of a segment
  int64_t all;       // groups of a row

  explicit Strips(const Operands& p)
      : codes(V::kStrip * 8 / p.bits),
        row_bytes(p.k * p.bits / 8),
        bytes(segment_bytes(p)),
        each(ceil_div(bytes, V::kStrip)),
        segments(ceil_div(row_bytes, bytes)),
        groups(std::max<int64_t>(1, bytes * 8 / p.bits / p.group)),
        all(ceil_div(p.k, p.group)) {}

  // A strip where groups, made of parts, fill it exactly; else a group.
  static int64_t segment_bytes(const Operands& p) {
    const int64_t group = std::min(p.group, p.k) * p.bits / 8;
    return V::kStrip % group == 0 && group % V::kPart == 0 ? V::kStrip : group;
  }

  // Groups of a row as far as sums are written.
  int64_t room() const { return round_up(segments, kTogether) * groups; }

  int64_t row_codes() const { return segments * each * codes; }
};

// Whether there are so few rows that adding up the lanes of each group is worth it.
template <class V>
bool takes_few(const Operands& p) {
  constexpr int64_t kMost = 8, kLeast = 32;
  return p.m <= kMost && p.m * kLeast <= p.group;
}

template <class V>
int64_t few_row_codes(const Operands& p) {
  return Strips<V>(p).row_codes();
}

// Copies the codes of a segment; where the right operand has two codes to a byte, a strip's even
// codes go before its odd ones.
template <class V>
void few_pack_segment(const Operands& p, const Strips<V>& s, const int8_t* from, int64_t count,
                      typename V::Code* to) {
  std::fill_n(to, s.each * s.codes, 0);
  if (p.bits == 8) {
    std::copy_n(from, count, to);
    return;
  }
  for (int64_t i = 0; i < count; i += s.codes, to += s.codes) {
    const int64_t pairs = std::min(s.codes, count - i) / 2;
    for (int64_t j = 0; j < pairs; ++j) to[j] = from[i + 2 * j];
    for (int64_t j = 0; j < pairs; ++j) to[s.codes / 2 + j] = from[i + 2 * j + 1];
  }
}

template <class V>
void few_pack_row(const Operands& p, int64_t row, const Packed& packed) {
  const Strips<V> s(p);
  const int64_t step = s.bytes * 8 / p.bits;
  const int8_t* from = p.lhs + row * p.k;
  auto* to = static_cast<typename V::Code*>(packed.codes) + row * s.row_codes();
  for (int64_t i = 0; i < s.segments; ++i) {
    const int64_t count = std::min(step, p.k - i * step);
    few_pack_segment(p, s, from + i * step, count, to + i * s.each * s.codes);
  }
  for (int64_t group = 0; group < s.all; ++group) {
    const int64_t stop = std::min(p.k, (group + 1) * p.group);
    const int32_t sum = std::accumulate(from + group * p.group, from + stop, 0);
    packed.starts[row * s.all + group] = -V::offset(p.bits) * sum;
  }
}

}  // namespace qpass
