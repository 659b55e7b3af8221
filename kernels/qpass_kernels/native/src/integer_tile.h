// The product of a block, for any instruction set.
//
// Included by the file of each instruction set, which defines QPASS_TARGET (what its functions are
// compiled for) and a type V:
//   kLanes            columns in a vector
//   Code, kCodes      a packed code; how many of them a lane takes at a step
//   kRows             rows whose sums fit in the registers
//   kOrder<bits>      which code of a unit comes where once `expand` is done
//   kOffset<bits>     what `expand` adds to the codes of the right operand
//   Units, Sums       a unit from each of kLanes rows; int32 sums of kLanes columns
//   transpose, expand, store, fill, load, save, dot, add_scaled
#pragma once

#include "half.h"
#include "integer_pack.h"
#include "scratch.h"

namespace qpass {

// Bytes of each row of the right operand that are packed at a time: a panel stays in the first-level
// cache while the rows of the left operand pass.
constexpr int64_t kChunkUnits = 128;

// Some rows of a block, and what they have come to so far.
template <class V>
struct Tile {
  const typename V::Code* codes;  // [row][units * codes]
  const int32_t* starts;          // [row][group]
  const float* row_scales;        // [row][1 or group]
  const typename V::Code* panel;  // from the first unit of the chunk on
  const float* column_scales;     // [1 or group][column]
  int32_t* sums;                  // [row][column]: of a group that a chunk cuts
  float* totals;                  // [row][column]
};

// Adds the products of some steps to the sums of R rows.
template <class V, int R>
QPASS_TARGET inline void add_steps(const typename V::Code* x, int64_t stride,
                                   const typename V::Code* panel, int64_t steps,
                                   typename V::Sums (&sums)[R][kVectors]) {
  constexpr int64_t kVector = V::kLanes * V::kCodes;
  for (int64_t step = 0; step < steps; ++step, x += V::kCodes, panel += kVectors * kVector) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = V::dot(sums[r][v], panel + v * kVector, x + r * stride);
      }
    }
  }
}

template <class V, int R>
QPASS_TARGET inline void begin_group(const Units& u, const Tile<V>& t, int64_t group,
                                     typename V::Sums (&sums)[R][kVectors]) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = V::fill(t.starts[r * u.groups + group]);
  }
}

// Adds (sum * row's scale) * column's scale to the totals.
template <class V, int R>
QPASS_TARGET inline void end_group(const Operands& p, const Tile<V>& t, int64_t group,
                                   typename V::Sums (&sums)[R][kVectors]) {
  const int64_t row_group = p.lhs_groups > 1 ? group : 0, column_group = p.rhs_groups > 1 ? group : 0;
  for (int r = 0; r < R; ++r) {
    const float scale = t.row_scales[r * p.lhs_groups + row_group];
    for (int v = 0; v < kVectors; ++v) {
      V::add_scaled(sums[r][v], scale, t.column_scales + column_group * kColumns<V> + v * V::kLanes,
                    t.totals + r * kColumns<V> + v * V::kLanes);
    }
  }
}

template <class V, int R>
QPASS_TARGET inline void load_sums(const Tile<V>& t, typename V::Sums (&sums)[R][kVectors]) {
  for (int i = 0; i < R * kVectors; ++i) {
    sums[i / kVectors][i % kVectors] = V::load(t.sums + i * V::kLanes);
  }
}

template <class V, int R>
QPASS_TARGET inline void save_sums(const Tile<V>& t, typename V::Sums (&sums)[R][kVectors]) {
  for (int i = 0; i < R * kVectors; ++i) {
    V::save(sums[i / kVectors][i % kVectors], t.sums + i * V::kLanes);
  }
}

// Adds units [first, last) of R rows, group by group.
template <class V, int R>
QPASS_TARGET void add_units(const Operands& p, const Units& u, const Tile<V>& t, int64_t first,
                            int64_t last) {
  typename V::Sums sums[R][kVectors];
  const int64_t stride = u.count * u.codes;
  for (int64_t i = first; i < last;) {
    const int64_t group = i / u.per_group, stop = std::min(last, u.end_of_group(group));
    if (i == group * u.per_group) {
      begin_group<V, R>(u, t, group, sums);
    } else {
      load_sums<V, R>(t, sums);
    }
    add_steps<V, R>(t.codes + i * u.codes, stride, t.panel + (i - first) * u.codes * kColumns<V>,
                    (stop - i) * u.codes / V::kCodes, sums);
    if (stop == u.end_of_group(group)) {
      end_group<V, R>(p, t, group, sums);
    } else {
      save_sums<V, R>(t, sums);
    }
    i = stop;
  }
}

// The same for a number of rows known only at run time.
template <class V, int R = V::kRows>
QPASS_TARGET inline void add_rows(int64_t rows, const Operands& p, const Units& u, const Tile<V>& t,
                                  int64_t first, int64_t last) {
  if (rows >= R) return add_units<V, R>(p, u, t, first, last);
  if constexpr (R > 1) add_rows<V, R - 1>(rows, p, u, t, first, last);
}

// `row` rows further down.
template <class V>
QPASS_TARGET inline Tile<V> lower(const Operands& p, const Units& u, Tile<V> t, int64_t row) {
  t.codes += row * u.count * u.codes;
  t.starts += row * u.groups;
  t.row_scales += row * p.lhs_groups;
  t.sums += row * kColumns<V>;
  t.totals += row * kColumns<V>;
  return t;
}

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

template <class V>
void store_totals(const Operands& p, const Block& at, const float* totals) {
  const int64_t count = std::min(kColumns<V>, p.n - at.column);
  for (int64_t r = 0; r < at.rows; ++r) {
    const int64_t to = ((at.batch * p.m + at.row + r) * p.n) + at.column;
    store_values(totals + r * kColumns<V>, count, p.out, to, p.type);
  }
}

// The first tile of a block, and its memory.
template <class V>
Tile<V> tile_of(const Operands& p, const Units& u, const Packed& packed, const Block& at) {
  constexpr int64_t kPanel = kChunkUnits * 8 * kColumns<V> * sizeof(typename V::Code);
  const int64_t cells = at.rows * kColumns<V>, row = at.batch * p.m + at.row;
  char* memory = scratch(kPanel + (2 * cells + p.rhs_groups * kColumns<V>) * 4);
  auto* totals = reinterpret_cast<float*>(memory + kPanel);
  auto* codes = static_cast<const typename V::Code*>(packed.codes);
  std::fill_n(totals, cells, -0.0f);  // what leaves every first term as it is
  return {codes + row * u.count * u.codes,
          packed.starts + row * u.groups,
          p.lhs_scale + row * p.lhs_groups,
          reinterpret_cast<typename V::Code*>(memory),
          totals + 2 * cells,
          reinterpret_cast<int32_t*>(totals + cells),
          totals};
}

template <class V>
QPASS_TARGET void multiply_block(const Operands& p, const Units& u, const Packed& packed,
                                 const Block& at) {
  const Tile<V> tile = tile_of<V>(p, u, packed, at);
  auto* panel = const_cast<typename V::Code*>(tile.panel);
  const auto pack = p.bits == 8 ? pack_panel<V, 8> : pack_panel<V, 4>;
  pack_scales<V>(p, at, const_cast<float*>(tile.column_scales));
  for (int64_t first = 0; first < u.count; first += kChunkUnits) {
    const int64_t last = std::min(first + kChunkUnits, u.count);
    pack(p, u, at, first, last, panel);
    for (int64_t row = 0; row < at.rows; row += V::kRows) {
      add_rows<V>(at.rows - row, p, u, lower(p, u, tile, row), first, last);
    }
  }
  store_totals<V>(p, at, tile.totals);
}

template <class V>
void pack_row_of(const Operands& p, const Units& u, int64_t row, const Packed& packed) {
  (p.bits == 8 ? pack_row<V, 8> : pack_row<V, 4>)(p, u, row, packed);
}

template <class V>
constexpr Form form_of(Isa isa) {
  return {isa, kColumns<V>, sizeof(typename V::Code), pack_row_of<V>, multiply_block<V>};
}

}  // namespace qpass
