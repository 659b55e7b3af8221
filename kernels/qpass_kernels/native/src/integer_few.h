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
//   zero, dot, reduce, load, fill, add, add_scaled
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

// How a row is cut.
template <class V>
struct Strips {
  static constexpr int64_t kSegments = V::kLanes / kSide;  // that are reduced together

  int64_t codes;    // in a strip
  int64_t count;    // of a row
  int64_t whole;    // that lie in the row with all of their bytes
  int64_t segment;  // strips that are summed lane by lane: a group, or one
  int64_t groups;   // of a segment
  int64_t all;      // groups of a row

  explicit Strips(const Operands& p)
      : codes(V::kStrip * 8 / p.bits),
        count(ceil_div(p.k, codes)),
        whole(p.k * p.bits / 8 / V::kStrip),
        segment(p.group >= p.k ? count : std::max<int64_t>(1, p.group / codes)),
        groups(p.group >= p.k ? 1 : std::max<int64_t>(1, codes / p.group)),
        all(ceil_div(p.k, p.group)) {}
};

// Whether groups are made of whole parts of strips, and adding up their lanes is worth it.
template <class V>
bool takes_few(const Operands& p) {
  constexpr int64_t kMost = 4;
  const int64_t bytes = p.group * p.bits / 8;
  const bool fits = p.group * p.bits % (8 * V::kPart) == 0 &&
                    (bytes % V::kStrip == 0 || V::kStrip % bytes == 0);
  return p.m <= kMost && p.m * 32 <= p.group && (fits || p.group >= p.k);
}

template <class V>
int64_t few_row_codes(const Operands& p) {
  const Strips<V> s(p);
  return s.count * s.codes;
}

// Copies a row of the left operand; where the right one has two codes to a byte, a strip's even
// codes go before its odd ones.
template <class V>
void few_pack_codes(const Operands& p, const Strips<V>& s, const int8_t* from,
                    typename V::Code* to) {
  if (p.bits == 8) {
    std::copy_n(from, p.k, to);
    std::fill_n(to + p.k, s.count * s.codes - p.k, 0);
    return;
  }
  std::fill_n(to, s.count * s.codes, 0);
  for (int64_t i = 0; i < p.k; i += s.codes, to += s.codes) {
    const int64_t pairs = std::min(s.codes, p.k - i) / 2;
    for (int64_t j = 0; j < pairs; ++j) to[j] = from[i + 2 * j];
    for (int64_t j = 0; j < pairs; ++j) to[s.codes / 2 + j] = from[i + 2 * j + 1];
  }
}

template <class V>
void few_pack_row(const Operands& p, int64_t row, const Packed& packed) {
  const Strips<V> s(p);
  const int8_t* from = p.lhs + row * p.k;
  auto* to = static_cast<typename V::Code*>(packed.codes) + row * s.count * s.codes;
  few_pack_codes(p, s, from, to);
  for (int64_t group = 0; group < s.all; ++group) {
    const int64_t stop = std::min(p.k, (group + 1) * p.group);
    const int32_t sum = std::accumulate(from + group * p.group, from + stop, 0);
    packed.starts[row * s.all + group] = -V::offset(p.bits) * sum;
  }
}

// kSide rows of the right operand, and what a row's last strip holds where it is not whole.
template <class V>
struct Side {
  const uint8_t* rows[kSide];
  uint8_t tails[kSide][V::kStrip];

  Side(const Operands& p, const Strips<V>& s, const Block& at, int64_t column) {
    const int64_t bytes = p.k * p.bits / 8, tail = bytes - s.whole * V::kStrip;
    for (int64_t i = 0; i < kSide; ++i) {
      rows[i] = p.rhs + (at.batch * p.n + std::min(column + i, p.n - 1)) * bytes;
      std::memset(tails[i], 0, V::kStrip);
      std::memcpy(tails[i], rows[i] + s.whole * V::kStrip, tail);
    }
  }
};

// Adds strips [first, last) of kSide rows to their sums.
template <class V, int kBits>
QPASS_TARGET inline void add_strips(const Strips<V>& s, const Side<V>& side,
                                    const typename V::Code* x, int64_t first, int64_t last,
                                    typename V::Sums* sums) {
  const int64_t stop = std::min(last, s.whole);
  for (int64_t i = first; i < stop; ++i) {
    QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) {
      sums[j] = V::template dot<kBits>(sums[j], side.rows[j] + i * V::kStrip, x + i * s.codes);
    }
  }
  if (first < last && stop < last) {
    QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) {
      sums[j] = V::template dot<kBits>(sums[j], side.tails[j], x + s.whole * s.codes);
    }
  }
}

// Writes the sums of every group: [group][column], for kSide columns.
template <class V, int kBits>
QPASS_TARGET void sum_side(const Strips<V>& s, const Side<V>& side, const typename V::Code* x,
                           int32_t* to) {
  constexpr int64_t kSegments = Strips<V>::kSegments;
  alignas(kLine) int32_t reduced[V::kStrip / V::kPart][V::kLanes];
  int64_t group = 0;
  for (int64_t first = 0; first < s.count; first += kSegments * s.segment) {
    typename V::Sums sums[V::kLanes];
    QPASS_UNROLL for (int64_t i = 0; i < V::kLanes; ++i) sums[i] = V::zero();
    QPASS_UNROLL for (int64_t i = 0; i < kSegments; ++i) {
      const int64_t from = first + i * s.segment;
      add_strips<V, kBits>(s, side, x, from, std::min(from + s.segment, s.count), sums + i * kSide);
    }
    V::reduce(sums, s.groups, reduced);
    const int64_t last = std::min(group + kSegments * s.groups, s.all);
    for (int64_t i = 0; group < last; ++i, ++group) {
      std::memcpy(to + group * V::kLanes, reduced[i % s.groups] + i / s.groups * kSide,
                  kSide * sizeof(int32_t));
    }
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
  const auto* x = static_cast<const typename V::Code*>(packed.codes) + row * s.count * s.codes;
  auto* scales = reinterpret_cast<float*>(scratch((at.rows * cells + p.rhs_groups * V::kLanes) * 4));
  auto* sums = reinterpret_cast<int32_t*>(scales + p.rhs_groups * V::kLanes);
  copy_scales<V>(p, at, scales);
  for (int64_t column = 0; column < V::kLanes; column += kSide) {
    const Side<V> side(p, s, at, at.column + column);
    const int64_t bytes = p.k * kBits / 8;
    prefetch(side.rows[0] + kSide * bytes, kSide * bytes);
    for (int64_t r = 0; r < at.rows; ++r) {
      sum_side<V, kBits>(s, side, x + r * s.count * s.codes, sums + r * cells + column);
    }
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
