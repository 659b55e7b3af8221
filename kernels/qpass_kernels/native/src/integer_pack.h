// How codes and scales are brought into the order of the registers.
//
// Included by the file of each instruction set, which defines QPASS_TARGET and a type V: see
// integer_tile.h. A panel holds some columns of the result, that is rows of the right operand; at
// each step its vectors lie one behind another: [step][vector][lane][codes of a lane].
#pragma once

#include <cstring>

#include "integer.h"

namespace qpass {

// Vectors of a panel.
constexpr int64_t kVectors = 2;

template <class V>
constexpr int64_t kColumns = kVectors * V::kLanes;

// Bytes of a panel: those of a lane, of a step, and of a unit, which takes one or more steps. A
// scale is a unit of 32 bits.
template <class V, int kBits>
constexpr int64_t kLaneBytes = kBits == 32 ? 4 : V::kCodes * sizeof(typename V::Code);
template <class V, int kBits>
constexpr int64_t kStepBytes = kColumns<V> * kLaneBytes<V, kBits>;
template <class V, int kBits>
constexpr int64_t kUnitBytes = kStepBytes<V, kBits> * (kBits == 32 ? 1 : 32 / kBits / V::kCodes);

// Rows of a matrix that are transposed together; the last row is repeated behind the end. So few
// that their cache lines fit in a set of the cache where rows lie a power of two apart.
template <class V>
struct Rows {
  const uint8_t* start[V::kTall];

  Rows(const void* matrix, int64_t row_bytes, int64_t row, int64_t count) {
    const auto* bytes = static_cast<const uint8_t*>(matrix);
    for (int64_t i = 0; i < V::kTall; ++i) {
      start[i] = bytes + std::min(row + i, count - 1) * row_bytes;
    }
  }
};

// Packs a strip of each row from `offset` on; nothing is read at or after `end`.
template <class V, int kBits>
QPASS_TARGET inline void pack_strip(const Rows<V>& rows, int64_t offset, int64_t end, char* to) {
  constexpr int64_t kStrip = V::kWide * 4;
  const uint8_t* strip[V::kTall];
  for (int64_t i = 0; i < V::kTall; ++i) strip[i] = rows.start[i] + offset;
  if (end - offset >= kStrip) return V::template pack<kBits>(strip, to, kStepBytes<V, kBits>);
  uint8_t tail[V::kTall][kStrip] = {};
  for (int64_t i = 0; i < V::kTall; ++i) {
    std::memcpy(tail[i], strip[i], end - offset);
    strip[i] = tail[i];
  }
  V::template pack<kBits>(strip, to, kStepBytes<V, kBits>);
}

// Packs `units` units that lie one behind another in each row, and up to a strip of whatever lies
// behind them: the next run, or nothing that counts.
template <class V, int kBits>
QPASS_TARGET inline void pack_run(const Rows<V>& rows, int64_t offset, int64_t end, int64_t units,
                                  char* to) {
  for (int64_t i = 0; i < units; i += V::kWide) {
    pack_strip<V, kBits>(rows, offset + i * 4, end, to + i * kUnitBytes<V, kBits>);
  }
}

// Packs units [first, last) of the columns of a block.
template <class V, int kBits>
QPASS_TARGET void pack_panel(const Operands& p, const Units& u, const Block& at, int64_t first,
                             int64_t last, char* panel) {
  const uint8_t* rhs = p.rhs + at.batch * p.n * u.row_bytes;
  for (int64_t column = 0; column < kColumns<V>; column += V::kTall) {
    const Rows<V> rows(rhs, u.row_bytes, at.column + column, p.n);
    char* to = panel + column * kLaneBytes<V, kBits>;
    for (int64_t i = first; i < last;) {
      const int64_t run = i / u.run, stop = std::min(last, (run + 1) * u.run);
      const int64_t offset = run * u.run_bytes + (i - run * u.run) * 4;
      pack_run<V, kBits>(rows, offset, u.row_bytes, stop - i, to);
      to += (stop - i) * kUnitBytes<V, kBits>;
      i = stop;
    }
  }
}

// Packs the scales of the columns of a block: [group][column], as units that are one code.
template <class V>
QPASS_TARGET void pack_scales(const Operands& p, const Block& at, float* to) {
  const float* scales = p.rhs_scale + at.batch * p.n * p.rhs_groups;
  const int64_t bytes = p.rhs_groups * 4;
  for (int64_t column = 0; column < kColumns<V>; column += V::kTall) {
    const Rows<V> rows(scales, bytes, at.column + column, p.n);
    pack_run<V, 32>(rows, 0, bytes, p.rhs_groups, reinterpret_cast<char*>(to + column));
  }
}

// Packs a unit of the left operand, and returns the sum of its codes.
template <class V, int kBits>
QPASS_TARGET inline int32_t pack_unit(const int8_t* from, typename V::Code* to) {
  constexpr int64_t kUnit = 32 / kBits;
  int32_t sum = 0;
  for (int64_t i = 0; i < kUnit; ++i) {
    to[i] = from[V::template kOrder<kBits>[i]];
    sum += to[i];
  }
  return sum;
}

// The same for a group of a row, the last unit filled up with zeros.
template <class V, int kBits>
QPASS_TARGET inline int32_t pack_group(const int8_t* from, int64_t codes, typename V::Code* to) {
  constexpr int64_t kUnit = 32 / kBits;
  const int64_t rest = codes % kUnit, whole = codes - rest;
  int32_t sum = 0;
  for (int64_t i = 0; i < whole; i += kUnit) sum += pack_unit<V, kBits>(from + i, to + i);
  if (rest == 0) return sum;
  int8_t last[kUnit] = {};
  std::copy_n(from + whole, rest, last);
  return sum + pack_unit<V, kBits>(last, to + whole);
}

template <class V, int kBits>
QPASS_TARGET void pack_row(const Operands& p, int64_t row, const Packed& packed) {
  const Units u(p);
  const int8_t* from = p.lhs + row * p.k;
  auto* to = static_cast<typename V::Code*>(packed.codes) + row * u.count * u.codes;
  for (int64_t group = 0; group < u.groups; ++group) {
    const int64_t start = group * p.group, codes = std::min(p.group, p.k - start);
    const int32_t sum = pack_group<V, kBits>(from + start, codes, to + group * u.per_group * u.codes);
    packed.starts[row * u.groups + group] = -V::offset(kBits) * sum;
  }
}

}  // namespace qpass
