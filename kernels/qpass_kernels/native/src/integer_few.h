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
//   dot, reduce, load, fill, add, add_scaled, turn
#pragma once

#include <cstring>

#include "integer_store.h"
#include "integer_strips.h"
#include "prefetch.h"
#include "scratch.h"

namespace qpass {

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

// Bytes that are asked for at once without filling what keeps track of them: kSide rows, the kSide
// next ones, and the left operand (measured with groups of 64: rows of 576 bytes are faster at once
// than bit by bit, those of 1536 and 2048 bytes take up to 1.6 times as long).
constexpr int64_t kShort = 8 << 10;

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
template <class V, int kBits, int R, bool is_strip>
QPASS_TARGET inline Sums<V, R> sum_segment(const Strips<V>& s, const Side& side,
                                           const typename V::Code* x, int64_t segment,
                                           Ahead& ahead) {
  Sums<V, R> sums;
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) sums.at[r][j] = V::fill(0);
  }
  const int64_t stride = s.row_codes(), start = segment * s.bytes;
  if constexpr (is_strip) {
    if (segment >= s.segments) return sums;
    ahead.ask(start, s.row_bytes);
    return add_strip<V, kBits>(sums, side.at(start), x, stride);
  }
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
template <class V, int kBits, int R, bool is_strip>
QPASS_TARGET void sum_side(const Strips<V>& s, const Side& side, const typename V::Code* x,
                           Ahead ahead, int32_t* to) {
  constexpr int64_t kTogether = Strips<V>::kTogether;
  alignas(kLine) int32_t reduced[V::kStrip / V::kPart][V::kLanes];
  typename V::Sums sums[R][V::kLanes];
  for (int64_t first = 0; first < s.segments; first += kTogether) {
    QPASS_UNROLL for (int64_t i = 0; i < kTogether; ++i) {
      const auto* from = x + (first + i) * s.each * s.codes;
      const auto segment = sum_segment<V, kBits, R, is_strip>(s, side, from, first + i, ahead);
      QPASS_UNROLL for (int r = 0; r < R; ++r) {
        QPASS_UNROLL for (int64_t j = 0; j < kSide; ++j) sums[r][i * kSide + j] = segment.at[r][j];
      }
    }
    QPASS_UNROLL for (int r = 0; r < R; ++r) {
      V::reduce(sums[r], s.groups, reduced);
      int32_t* at = to + (r * s.room() + first * s.groups) * V::kLanes;
      QPASS_UNROLL for (int64_t i = 0; i < kTogether; ++i) {
        for (int64_t j = 0; j < s.groups; ++j, at += V::kLanes) {
          std::memcpy(at, reduced[j] + i * kSide, kSide * sizeof(int32_t));
        }
      }
    }
  }
}

// The same for a number of rows known only at run time.
template <class V, int kBits, bool is_strip, int R = V::kTile>
QPASS_TARGET void sum_rows(int64_t rows, const Strips<V>& s, const Side& side,
                           const typename V::Code* x, Ahead ahead, int32_t* to) {
  for (; rows >= R; rows -= R, ahead = {}) {
    sum_side<V, kBits, R, is_strip>(s, side, x, ahead, to);
    x += R * s.row_codes();
    to += R * s.room() * V::kLanes;
  }
  if constexpr (R > 1) {
    if (rows > 0) sum_rows<V, kBits, is_strip, R / 2>(rows, s, side, x, ahead, to);
  }
}

// The scales of the columns of a block: [group][column]. Asks for those of the next columns.
template <class V>
QPASS_TARGET void copy_scales(const Operands& p, const Block& at, float* to) {
  const float* rows[V::kLanes];
  for (int64_t i = 0; i < V::kLanes; ++i) {
    rows[i] = p.rhs_scale + (at.batch * p.n + std::min(at.column + i, p.n - 1)) * p.rhs_groups;
  }
  const int64_t count = V::kLanes * p.rhs_groups;
  prefetch_far(reinterpret_cast<const uint8_t*>(rows[0] + count), count * sizeof(float));
  for (int64_t i = 0; i < p.rhs_groups; i += 4) {
    V::turn(rows, i, std::min<int64_t>(4, p.rhs_groups - i), to + i * V::kLanes);
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
  const int64_t row = at.batch * p.m + at.row, cells = s.room() * V::kLanes;
  const auto* x = static_cast<const typename V::Code*>(packed.codes) + row * s.row_codes();
  const int64_t column_scales = round_up(p.rhs_groups, 4) * V::kLanes;
  auto* scales = reinterpret_cast<float*>(scratch((at.rows * cells + column_scales) * 4));
  auto* sums = reinterpret_cast<int32_t*>(scales + column_scales);
  copy_scales<V>(p, at, scales);
  const bool is_strip = s.bytes == V::kStrip && s.row_bytes % V::kStrip == 0;
  for (int64_t column = 0; column < V::kLanes; column += kSide) {
    const Side side(p, s.row_bytes, at.batch, at.column + column);
    const bool is_short = (2 * kSide + at.rows) * s.row_bytes <= kShort;
    const uint8_t* next = side.rows[0] + kSide * s.row_bytes;
    if (is_short) prefetch(next, kSide * s.row_bytes);
    const Ahead ahead{is_short ? nullptr : next};
    (is_strip ? sum_rows<V, kBits, true> : sum_rows<V, kBits, false>)(at.rows, s, side, x, ahead,
                                                                      sums + column);
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
