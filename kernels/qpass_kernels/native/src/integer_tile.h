// The product of a block, for any instruction set.
//
// Included by the file of each instruction set, which defines QPASS_TARGET (what its functions are
// compiled for) and a type V:
//   kLanes            columns in a vector
//   Code, kCodes      a packed code; how many of them a lane takes at a step
//   kRows             rows whose sums fit in the registers
//   kOrder<bits>      which code of a unit comes where once `pack` is done
//   offset(bits)      what `pack` adds to the codes of the right operand
//   kTall, kWide      rows of the right operand, and units of each, that `pack` transposes
//   Sums              int32 sums of kLanes columns
//   pack, fill, load, save, dot, add_scaled
#pragma once

#include "integer_pack.h"
#include "integer_store.h"
#include "prefetch.h"
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

// Sums of R rows.
template <class V, int R>
struct Sums {
  typename V::Sums at[R][kVectors];
};

// Adds the products of some steps.
template <class V, int R>
QPASS_TARGET inline Sums<V, R> add_steps(Sums<V, R> sums, const typename V::Code* x, int64_t stride,
                                         const typename V::Code* panel, int64_t steps) {
  constexpr int64_t kVector = V::kLanes * V::kCodes;
  for (int64_t step = 0; step < steps; ++step, x += V::kCodes, panel += kVectors * kVector) {
    QPASS_UNROLL for (int r = 0; r < R; ++r) {
      QPASS_UNROLL for (int v = 0; v < kVectors; ++v) {
        sums.at[r][v] = V::dot(sums.at[r][v], panel + v * kVector, x + r * stride);
      }
    }
  }
  return sums;
}

template <class V, int R>
QPASS_TARGET inline Sums<V, R> begin_group(const Units& u, const Tile<V>& t, int64_t group) {
  Sums<V, R> sums;
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int v = 0; v < kVectors; ++v) {
      sums.at[r][v] = V::fill(t.starts[r * u.groups + group]);
    }
  }
  return sums;
}

// Goes on with a group that the chunk before began, and lays one down for the chunk after.
template <class V, int R>
QPASS_TARGET inline Sums<V, R> load_sums(const Tile<V>& t) {
  Sums<V, R> sums;
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int v = 0; v < kVectors; ++v) {
      sums.at[r][v] = V::load(t.sums + r * kColumns<V> + v * V::kLanes);
    }
  }
  return sums;
}

template <class V, int R>
QPASS_TARGET inline void save_sums(const Tile<V>& t, const Sums<V, R>& sums) {
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int v = 0; v < kVectors; ++v) {
      V::save(sums.at[r][v], t.sums + r * kColumns<V> + v * V::kLanes);
    }
  }
}

// Adds (sum * row's scale) * column's scale to the totals.
template <class V, int R>
QPASS_TARGET inline void end_group(const Operands& p, const Tile<V>& t, int64_t group,
                                   const Sums<V, R>& sums) {
  const float* rows = t.row_scales + (p.lhs_groups > 1 ? group : 0);
  const float* columns = t.column_scales + (p.rhs_groups > 1 ? group : 0) * kColumns<V>;
  QPASS_UNROLL for (int r = 0; r < R; ++r) {
    QPASS_UNROLL for (int v = 0; v < kVectors; ++v) {
      V::add_scaled(sums.at[r][v], rows[r * p.lhs_groups], columns + v * V::kLanes,
                    t.totals + r * kColumns<V> + v * V::kLanes);
    }
  }
}

// Adds units [first, last) of R rows, group by group.
template <class V, int R>
QPASS_TARGET __attribute__((noinline)) void add_units(const Operands& p, const Units& u,
                                                      const Tile<V>& t, int64_t first,
                                                      int64_t last) {
  const int64_t stride = u.count * u.codes;
  for (int64_t i = first; i < last;) {
    const int64_t group = i / u.per_group, end = u.end_of_group(group), stop = std::min(last, end);
    Sums<V, R> sums = i == group * u.per_group ? begin_group<V, R>(u, t, group) : load_sums<V, R>(t);
    sums = add_steps(sums, t.codes + i * u.codes, stride,
                     t.panel + (i - first) * u.codes * kColumns<V>,
                     (stop - i) * u.codes / V::kCodes);
    stop == end ? end_group(p, t, group, sums) : save_sums(t, sums);
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

// The first tile of a block, and its memory.
template <class V>
Tile<V> tile_of(const Operands& p, const Units& u, const Packed& packed, const Block& at) {
  constexpr int64_t kPanel = (kChunkUnits + V::kWide) * kUnitBytes<V, 4>;
  const int64_t cells = at.rows * kColumns<V>, row = at.batch * p.m + at.row;
  char* memory = scratch(kPanel + (2 * cells + (p.rhs_groups + V::kWide) * kColumns<V>) * 4);
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

// Asks for what is packed next: the same columns further on, or the next ones from the start.
template <class V>
inline __attribute__((always_inline)) void ask_panel(const Operands& p, const Units& u,
                                                     const Block& at, int64_t unit) {
  const bool further = unit < u.count;
  const int64_t column = at.column + (further ? 0 : kColumns<V>);
  const uint8_t* from = p.rhs + at.batch * p.n * u.row_bytes +
                        (further ? unit / u.run * u.run_bytes + unit % u.run * 4 : 0);
  for (int64_t i = column; i < std::min(column + kColumns<V>, p.n); ++i) {
    prefetch_far(from + i * u.row_bytes, std::min(kChunkUnits * 4, u.row_bytes));
  }
}

template <class V>
QPASS_TARGET void multiply_block(const Operands& p, const Packed& packed, const Block& at) {
  const Units u(p);
  const Tile<V> tile = tile_of<V>(p, u, packed, at);
  auto* panel = const_cast<char*>(reinterpret_cast<const char*>(tile.panel));
  const auto pack = p.bits == 8 ? pack_panel<V, 8> : pack_panel<V, 4>;
  pack_scales<V>(p, at, const_cast<float*>(tile.column_scales));
  for (int64_t first = 0; first < u.count; first += kChunkUnits) {
    const int64_t last = std::min(first + kChunkUnits, u.count);
    pack(p, u, at, first, last, panel);
    ask_panel<V>(p, u, at, last);
    for (int64_t row = 0; row < at.rows; row += V::kRows) {
      add_rows<V>(at.rows - row, p, u, lower(p, u, tile, row), first, last);
    }
  }
  for (int64_t row = 0; row < at.rows; ++row) {
    store_row(p, at, row, tile.totals + row * kColumns<V>, kColumns<V>);
  }
}

template <class V>
void pack_row_of(const Operands& p, int64_t row, const Packed& packed) {
  (p.bits == 8 ? pack_row<V, 8> : pack_row<V, 4>)(p, row, packed);
}

inline bool takes_all(const Operands&) { return true; }

inline int64_t row_codes(const Operands& p) {
  const Units u(p);
  return u.count * u.codes;
}

template <class V>
constexpr Form form_of(Isa isa) {
  return {isa,       kColumns<V>,    sizeof(typename V::Code), takes_all,
          row_codes, pack_row_of<V>, multiply_block<V>};
}

}  // namespace qpass
