// The product of few rows, for any instruction set: each row of the right operand is read once,
// where it lies, and multiplied along K. The sums of lanes are added up at the end of each group,
// for many rows of the left operand more work than to pack the right one: see integer_tile.h.
//
// Included by the file of each instruction set, which defines QPASS_TARGET and a type V:
//   kLanes         columns of a block
//   kStrip, kPart  bytes of a row that `dot` takes; those of them whose sums are kept apart
//   Code           a packed code of the left operand
//   offset(bits)   what `dot` adds to the codes of the right operand
//   Sums           int32 sums of a strip's lanes, or of kLanes columns
//   kTile          rows of the left operand whose sums fit in the registers
//   dot, reduce, load, fill, add, add_scaled
#pragma once

#include <cstring>
#include <numeric>

#include "integer.h"
#include "integer_store.h"
#include "prefetch.h"
#include "scratch.h"

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

// The same place in kSide rows of the right operand.
struct Side {
  const uint8_t* rows[kSide];

  Side(const Operands& p, int64_t row_bytes, int64_t batch, int64_t column) {
    for (int64_t i = 0; i < kSide; ++i) {
      rows[i] = p.rhs + (batch * p.n + std::min(column + i, p.n - 1)) * row_bytes;
    }
  }

  // Some bytes further on.
  Side at(int64_t offset) const {
    Side moved = *this;
    QPASS_UNROLL for (int64_t i = 0; i < kSide; ++i) moved.rows[i] += offset;
    return moved;
  }
};

// Bytes that lie in the first-level cache together: kSide rows, the kSide next ones, asked for at
// once, and the left operand.
constexpr int64_t kShort = 20 << 10;

// The next kSide rows of the right operand, which are asked for while these are multiplied: as many
// bytes of all of them together as one of these is read further.
struct Ahead {
  const uint8_t* rows = nullptr;
  int64_t asked = 0;  // of a row

  void ask(int64_t read, int64_t row_bytes) {
    if (rows == nullptr || read < asked) return;
    const int64_t some = std::min<int64_t>(64, row_bytes - asked);
    prefetch_far(rows + kSide * asked, kSide * some);
    asked += some;
  }
};

// The sums of R rows of the left operand by kSide of the right one.
template <class V, int R>
struct Sums {
  typename V::Sums at[R][kSide];
};

// Adds the products of a strip of each, those on the left `stride` codes apart.
template <class V, int kBits, int R>
QPASS_TARGET inline Sums<V, R> add_strip(Sums<V, R> sums, const Side& strip,
                                         const typename V::Code* x, int64_t stride) {
  QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) {
    QPASS_UNROLL for (int r = 0; r < R; ++r) {
      sums.at[r][j] = V::template dot<kBits>(sums.at[r][j], strip.rows[j], x + r * stride);
    }
  }
  return sums;
}

// The same for a strip whose last bytes lie behind the row.
template <class V, int kBits, int R>
QPASS_TARGET inline Sums<V, R> add_tail(Sums<V, R> sums, Side strip, int64_t bytes,
                                        const typename V::Code* x, int64_t stride) {
  uint8_t tails[kSide][V::kStrip] = {};
  for (int64_t j = 0; j < kSide; ++j) {
    std::memcpy(tails[j], strip.rows[j], bytes);
    strip.rows[j] = tails[j];
  }
  return add_strip<V, kBits>(sums, strip, x, stride);
}

// Sums a segment, and meanwhile asks for what `ahead` has in its place.
template <class V, int kBits, int R>
QPASS_TARGET inline Sums<V, R> sum_segment(const Strips<V>& s, const Side& side,
                                           const typename V::Code* x, int64_t segment,
                                           Ahead& ahead) {
  Sums<V, R> sums;
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) sums.at[r][j] = V::fill(0);
  }
  const int64_t stride = s.row_codes(), start = segment * s.bytes;
  const int64_t stop = std::min(start + s.bytes, s.row_bytes);
  int64_t i = start;
  for (; i < stop && i + V::kStrip <= s.row_bytes; i += V::kStrip, x += s.codes) {
    ahead.ask(i, s.row_bytes);
    sums = add_strip<V, kBits>(sums, side.at(i), x, stride);
  }
  for (; i < stop; i += V::kStrip, x += s.codes) {
    sums = add_tail<V, kBits>(sums, side.at(i), s.row_bytes - i, x, stride);
  }
  return sums;
}

// Writes the sums of every group of R rows: [row][group][column], for kSide columns.
template <class V, int kBits, int R>
QPASS_TARGET void sum_side(const Strips<V>& s, const Side& side, const typename V::Code* x,
                           Ahead ahead, int32_t* to) {
  constexpr int64_t kTogether = Strips<V>::kTogether;
  alignas(kLine) int32_t reduced[V::kStrip / V::kPart][V::kLanes];
  typename V::Sums sums[R][V::kLanes];
  for (int64_t first = 0; first < s.segments; first += kTogether) {
    QPASS_UNROLL for (int64_t i = 0; i < kTogether; ++i) {
      const auto* from = x + (first + i) * s.each * s.codes;
      const auto segment = sum_segment<V, kBits, R>(s, side, from, first + i, ahead);
      QPASS_UNROLL for (int r = 0; r < R; ++r) {
        QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) sums[r][i * kSide + j] = segment.at[r][j];
      }
    }
    const int64_t groups = std::min(kTogether * s.groups, s.all - first * s.groups);
    QPASS_UNROLL for (int r = 0; r < R; ++r) {
      V::reduce(sums[r], s.groups, reduced);
      int32_t* at = to + (r * s.all + first * s.groups) * V::kLanes;
      for (int64_t i = 0; i < groups; ++i) {
        std::memcpy(at + i * V::kLanes, reduced[i % s.groups] + i / s.groups * kSide,
                    kSide * sizeof(int32_t));
      }
    }
  }
}

// The same for a number of rows known only at run time.
template <class V, int kBits, int R = V::kTile>
QPASS_TARGET void sum_rows(int64_t rows, const Strips<V>& s, const Side& side,
                           const typename V::Code* x, Ahead ahead, int32_t* to) {
  for (; rows >= R; rows -= R, ahead = {}) {
    sum_side<V, kBits, R>(s, side, x, ahead, to);
    x += R * s.row_codes();
    to += R * s.all * V::kLanes;
  }
  if constexpr (R > 1) {
    if (rows > 0) sum_rows<V, kBits, R / 2>(rows, s, side, x, ahead, to);
  }
}

// The scales of the columns of a block: [group][column].
template <class V>
void copy_scales(const Operands& p, const Block& at, float* to) {
  for (int64_t column = 0; column < V::kLanes; ++column) {
    const int64_t row = at.batch * p.n + std::min(at.column + column, p.n - 1);
    const float* from = p.rhs_scale + row * p.rhs_groups;
    for (int64_t i = 0; i < p.rhs_groups; ++i) to[i * V::kLanes + column] = from[i];
  }
}

// Adds (sum * row's scale) * column's scale to the totals of a row, group by group.
template <class V>
QPASS_TARGET void add_groups(const Operands& p, const Strips<V>& s, const int32_t* sums,
                             const int32_t* starts, const float* row_scales,
                             const float* column_scales, float* totals) {
  const int64_t row_step = p.lhs_groups > 1, column_step = p.rhs_groups > 1 ? V::kLanes : 0;
  std::fill_n(totals, V::kLanes, -0.0f);
  for (int64_t i = 0; i < s.all; ++i) {
    const auto sum = V::add(V::load(sums + i * V::kLanes), V::fill(starts[i]));
    V::add_scaled(sum, row_scales[i * row_step], column_scales + i * column_step, totals);
  }
}

template <class V, int kBits>
QPASS_TARGET void few_block(const Operands& p, const Packed& packed, const Block& at) {
  const Strips<V> s(p);
  const int64_t row = at.batch * p.m + at.row, cells = s.all * V::kLanes;
  const auto* x = static_cast<const typename V::Code*>(packed.codes) + row * s.row_codes();
  const int64_t column_scales = p.rhs_groups * V::kLanes;
  auto* scales = reinterpret_cast<float*>(scratch((at.rows * cells + column_scales) * 4));
  auto* sums = reinterpret_cast<int32_t*>(scales + column_scales);
  copy_scales<V>(p, at, scales);
  for (int64_t column = 0; column < V::kLanes; column += kSide) {
    const Side side(p, s.row_bytes, at.batch, at.column + column);
    const bool is_short = (2 * kSide + at.rows) * s.row_bytes <= kShort;
    const uint8_t* next = side.rows[0] + kSide * s.row_bytes;
    if (is_short) prefetch(next, kSide * s.row_bytes);
    const Ahead ahead{is_short ? nullptr : next};
    sum_rows<V, kBits>(at.rows, s, side, x, ahead, sums + column);
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    alignas(kLine) float totals[V::kLanes];
    add_groups<V>(p, s, sums + r * cells, packed.starts + (row + r) * s.all,
                  p.lhs_scale + (row + r) * p.lhs_groups, scales, totals);
    store_row(p, at, r, totals, V::kLanes);
  }
}

template <class V>
void few_block_of(const Operands& p, const Packed& packed, const Block& at) {
  (p.bits == 8 ? few_block<V, 8> : few_block<V, 4>)(p, packed, at);
}

template <class V>
constexpr Form few_form_of(Isa isa) {
  return {isa,           V::kLanes,        sizeof(typename V::Code), takes_few<V>, few_row_codes<V>,
          few_pack_row<V>, few_block_of<V>};
}

}  // namespace qpass
