// The product of a block, in one of two ways that give the same bits.
//
// Few rows: codes are decoded in registers, and each is read from memory once for all rows. Many
// rows: a tile of the weight is decoded into memory that stays in cache, and read from there.
#pragma once

#include <utility>

#include "floating_panel.h"
#include "prefetch.h"

namespace qpass::floating {
namespace {

constexpr int64_t kTile = 16;         // rows of the weight: 64 KB when decoded
constexpr int64_t kShort = 8 << 10;  // bytes of rows that are asked for at once

inline float* out_at(const Operands& p, int64_t batch, int64_t row, int64_t n) {
  return p.out + (batch * p.m + row) * p.n + n;
}

// `next`: what lies behind these rows of the weight, to be asked for meanwhile; or null.
template <int kRows, class Row>
void from_codes(const Operands& p, const Columns& w, const uint8_t* next, const float* lhs,
                int64_t batch, int64_t row, float* out) {
  for (int64_t k = 0; k < p.k; k += kPanel) {
    const Panel panel = panel_at<Row>(p, k);
    if (next != nullptr) {
      prefetch_far(next + kColumns * Row::bytes(k), kColumns * Row::bytes(panel.end - k));
    }
    Sums<typename Row::Isa, kRows> sums = {};
    const float* x = lhs + lhs_at<Row>(p, batch, row, panel);
    if constexpr (Row::kFine) {
      add_fine_panel<kRows, Row>(p, w, panel, x, sums);
    } else if (p.group == Row::kBlock) {
      add_panel_of_blocks<kRows, Row>(p, w, panel, x, sums);
    } else {
      add_panel<kRows, Row>(p, w, panel, x, sums);
    }
    QPASS_UNROLLED for (int r = 0; r < kRows; ++r) {
      put<typename Row::Isa>(p, panel, w, sums[r], out + r * p.n);
    }
  }
}

template <class Row>
void few_rows(const Operands& p, const float* lhs, const Block& at) {
  constexpr int kRows = Row::Isa::kDirectRows;
  for (int64_t n = at.column; n < at.column + at.columns; n += kColumns) {
    const Columns w(p, at.batch, n);
    const int64_t bytes = kColumns * p.row_bytes();
    const uint8_t* next = w.codes[0] + bytes;
    if (bytes <= kShort) prefetch(std::exchange(next, nullptr), bytes);
    for (int64_t row = at.row; row < at.row + at.rows; row += kRows) {
      with_rows<kRows>(at.row + at.rows - row, [&](auto rows) {
        float* out = out_at(p, at.batch, row, n);
        from_codes<rows, Row>(p, w, std::exchange(next, nullptr), lhs, at.batch, row, out);
      });
    }
  }
}

// `left`: bytes of the row from here on.
template <class Row>
QPASS_INLINE void decode_block(const Row& row, const uint8_t* codes, int64_t left, float* out) {
  uint8_t copy[Row::kBytes] = {};
  if (left < Row::kBytes) {
    std::memcpy(copy, codes, left);
    codes = copy;
  }
  typename Row::Registers values;
  row.decode(codes, values);
  std::memcpy(out, values, sizeof values);
}

// Decodes a panel of a row of the weight whose groups end where blocks do.
template <class Row>
void decode(const Operands& p, const Columns& w, const Panel& panel, float* out) {
  Row row;
  int64_t k = panel.begin;
  for (int64_t group = k / p.group; k < panel.end; ++group) {
    row.rescale(p, w.scales[0][group]);
    const int64_t end = std::min((group + 1) * p.group, panel.end);
    for (; k < end; k += Row::kBlock, out += Row::kBlock) {
      decode_block(row, w.codes[0] + Row::bytes(k), Row::bytes(panel.end - k), out);
    }
  }
}

// Decodes a panel whose blocks hold several groups each.
template <class Row>
void decode_fine(const Operands& p, const Columns& w, const Panel& panel, float* out) {
  Row row;
  row.begin(p);
  int64_t group = panel.begin / p.group;
  for (int64_t k = panel.begin; k < panel.end; k += Row::kBlock, out += Row::kBlock) {
    row.enter(w.scales[0] + group, p.groups - group);
    decode_block(row, w.codes[0] + Row::bytes(k), Row::bytes(panel.end - k), out);
    group += Row::kBlock / p.group;
  }
}

// Whether groups end within blocks.
template <class Row>
bool uneven(const Operands& p) {
  return !Row::kFine && p.grouped() && p.group % Row::kBlock;
}

// Whether they do, but none of them within a lane, nor do blocks end within groups.
template <class Row>
bool fine(const Operands& p) {
  return uneven<Row>(p) && Row::kBlock % p.group == 0 && p.group % Row::kVectors == 0;
}

// The group that a place along K lies in, walking on.
struct Group {
  const Operands& p;
  const float* scales;
  int64_t index, end;

  Group(const Operands& p, const Columns& w, int64_t k)
      : p(p), scales(w.scales[0]), index(k / p.group), end((index + 1) * p.group) {}

  float scale_at(int64_t k) {
    for (; k >= end; end += p.group) ++index;
    return scales[index];
  }
};

// Decodes a panel where they do: in a block that holds the end of a group each code is multiplied
// by its own scale.
template <class Row>
void decode_uneven(const Operands& p, const Columns& w, const Panel& panel, float* out) {
  Row row;
  Group group(p, w, panel.begin);
  for (int64_t k = panel.begin, known = -1; k < panel.end; k += Row::kBlock, out += Row::kBlock) {
    const int64_t count = std::min(Row::kBlock, panel.end - k), left = Row::bytes(panel.end - k);
    const float scale = group.scale_at(k);
    const bool whole = k + count <= group.end;
    if (!whole || known != group.index) row.rescale(p, whole ? scale : 1);
    known = whole ? group.index : -1;
    decode_block(row, w.codes[0] + Row::bytes(k), left, out);
    if (whole) continue;
    for (int64_t i = 0; i < count; ++i) out[Row::place(i)] *= group.scale_at(k + i);
  }
}

template <int kRows, class Isa>
void from_tile(const Operands& p, const Columns& w, const Panel& panel, const float* tile,
               const float* x, float* out) {
  const Decoded<Isa> rows[kColumns];
  const uint8_t* values[kColumns];
  for (int64_t c = 0; c < kColumns; ++c) {
    const float* row = tile + std::min(c, w.count - 1) * kPanel;
    values[c] = reinterpret_cast<const uint8_t*>(row);
  }
  Sums<Isa, kRows> sums = {};
  for (int64_t k = 0; k < panel.width; k += Isa::kLanes) {
    add_block<kRows>(rows, values, Decoded<Isa>::bytes(k), x + k, panel.width, sums);
  }
  QPASS_UNROLLED for (int r = 0; r < kRows; ++r) put<Isa>(p, panel, w, sums[r], out + r * p.n);
}

template <class Row>
void panel_of_many(const Operands& p, const float* lhs, const Block& at, const Panel& panel) {
  using Isa = typename Row::Isa;
  alignas(64) float tile[kTile * kPanel];
  for (int64_t n = 0; n < at.columns; ++n) {
    const Columns w(p, at.batch, at.column + n);
    if constexpr (Row::kFine) {
      decode_fine<Row>(p, w, panel, tile + n * kPanel);
    } else {
      (uneven<Row>(p) ? decode_uneven<Row> : decode<Row>)(p, w, panel, tile + n * kPanel);
    }
  }
  for (int64_t row = at.row; row < at.row + at.rows; row += Isa::kRows) {
    const float* x = lhs + lhs_at<Row>(p, at.batch, row, panel);
    for (int64_t n = 0; n < at.columns; n += kColumns) {
      const Columns w(p, at.batch, at.column + n);
      with_rows<Isa::kRows>(at.row + at.rows - row, [&](auto rows) {
        float* out = out_at(p, at.batch, row, at.column + n);
        from_tile<rows, Isa>(p, w, panel, tile + n * kPanel, x, out);
      });
    }
  }
}

template <class Row>
void multiply(const Operands& p, const float* lhs, const Block& at) {
  if constexpr (Row::kVectors > 1 && !Row::kFine) {
    if (fine<Row>(p)) return multiply<Fine<Row>>(p, lhs, at);
  }
  if (at.rows <= Row::Isa::kFewRows && !uneven<Row>(p)) return few_rows<Row>(p, lhs, at);
  for (int64_t k = 0; k < p.k; k += kPanel) {
    panel_of_many<Row>(p, lhs, at, panel_at<Row>(p, k));
  }
}

}  // namespace
}  // namespace qpass::floating
