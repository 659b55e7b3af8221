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

// Bytes of a row that are transposed at a time.
template <class V>
constexpr int64_t kStrip = V::kLanes * 4;

// Rows [row, row + V::kLanes) of a matrix of 4-byte units; the last one is repeated at its end.
template <class V>
struct Rows {
  const uint8_t* start[V::kLanes];

  Rows(const void* matrix, int64_t row_bytes, int64_t row, int64_t count) {
    const auto* bytes = static_cast<const uint8_t*>(matrix);
    for (int64_t i = 0; i < V::kLanes; ++i) {
      start[i] = bytes + std::min(row + i, count - 1) * row_bytes;
    }
  }
};

// Transposes up to V::kLanes units from `offset` on; nothing is read at or after `end`.
template <class V>
QPASS_TARGET inline void transpose(const Rows<V>& rows, int64_t offset, int64_t end,
                                   typename V::Units* units) {
  const uint8_t* strip[V::kLanes];
  for (int64_t i = 0; i < V::kLanes; ++i) strip[i] = rows.start[i] + offset;
  if (end - offset >= kStrip<V>) return V::transpose(strip, units);
  uint8_t tail[V::kLanes][kStrip<V>] = {};
  for (int64_t i = 0; i < V::kLanes; ++i) {
    std::memcpy(tail[i], strip[i], end - offset);
    strip[i] = tail[i];
  }
  V::transpose(strip, units);
}

// Packs `units` units that lie one behind another in each row.
template <class V, int kBits>
QPASS_TARGET inline void pack_run(const Rows<V>& rows, int64_t offset, int64_t end, int64_t units,
                                  typename V::Code* panel) {
  constexpr int64_t kSteps = 32 / kBits / V::kCodes, kStride = kColumns<V> * V::kCodes;
  typename V::Units strip[V::kLanes];
  for (int64_t i = 0; i < units; i += V::kLanes) {
    transpose<V>(rows, offset + i * 4, end, strip);
    const int64_t count = std::min<int64_t>(V::kLanes, units - i);
    for (int64_t j = 0; j < count; ++j, panel += kSteps * kStride) {
      V::template expand<kBits>(strip[j], panel, kStride);
    }
  }
}

// Packs units [first, last) of the columns from `column` on.
template <class V, int kBits>
QPASS_TARGET void pack_panel(const Operands& p, const Units& u, const Block& at, int64_t first,
                             int64_t last, typename V::Code* panel) {
  const uint8_t* rhs = p.rhs + at.batch * p.n * u.row_bytes;
  for (int64_t vector = 0; vector < kVectors; ++vector) {
    const Rows<V> rows(rhs, u.row_bytes, at.column + vector * V::kLanes, p.n);
    typename V::Code* to = panel + vector * V::kLanes * V::kCodes;
    for (int64_t i = first; i < last;) {
      const int64_t run = i / u.run, stop = std::min(last, (run + 1) * u.run);
      pack_run<V, kBits>(rows, run * u.run_bytes + (i - run * u.run) * 4, u.row_bytes, stop - i, to);
      to += (stop - i) * u.codes * kColumns<V>;
      i = stop;
    }
  }
}

// Packs the scales of the columns from `column` on: [group][column].
template <class V>
QPASS_TARGET void pack_scales(const Operands& p, const Block& at, float* to) {
  const float* scales = p.rhs_scale + at.batch * p.n * p.rhs_groups;
  const int64_t bytes = p.rhs_groups * 4;
  typename V::Units strip[V::kLanes];
  for (int64_t vector = 0; vector < kVectors; ++vector) {
    const Rows<V> rows(scales, bytes, at.column + vector * V::kLanes, p.n);
    for (int64_t group = 0; group < p.rhs_groups; ++group) {
      if (group % V::kLanes == 0) transpose<V>(rows, group * 4, bytes, strip);
      V::store(strip[group % V::kLanes], to + group * kColumns<V> + vector * V::kLanes);
    }
  }
}

// Packs a group of a row of the left operand, and returns the sum of its codes.
template <class V, int kBits>
QPASS_TARGET inline int32_t pack_group(const int8_t* from, int64_t codes, typename V::Code* to) {
  constexpr int64_t kUnit = 32 / kBits;
  int32_t sum = 0;
  for (int64_t i = 0; i < codes; i += kUnit) {
    for (int64_t j = 0; j < kUnit; ++j) {
      const int64_t k = i + V::template kOrder<kBits>[j];
      to[i + j] = k < codes ? from[k] : 0;
      sum += to[i + j];
    }
  }
  return sum;
}

template <class V, int kBits>
QPASS_TARGET void pack_row(const Operands& p, const Units& u, int64_t row, const Packed& packed) {
  const int8_t* from = p.lhs + row * p.k;
  auto* to = static_cast<typename V::Code*>(packed.codes) + row * u.count * u.codes;
  for (int64_t group = 0; group < u.groups; ++group) {
    const int64_t start = group * p.group, codes = std::min(p.group, p.k - start);
    const int32_t sum = pack_group<V, kBits>(from + start, codes, to + group * u.per_group * u.codes);
    packed.starts[row * u.groups + group] = -V::template kOffset<kBits> * sum;
  }
}

}  // namespace qpass
