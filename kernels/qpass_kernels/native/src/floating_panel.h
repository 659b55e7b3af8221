// Products of a few rows on the left by four on the right, over one panel of K.
#pragma once

#include <type_traits>

#include "floating_codes.h"

namespace qpass::floating {
namespace {

constexpr float kOne = 1;

struct Panel {
  int64_t begin, end;  // along K
  int64_t width;       // with the zeros that fill up the last block
};

template <class Row>
Panel panel_at(const Operands& p, int64_t begin) {
  const int64_t end = std::min(begin + kPanel, p.k);
  return {begin, end, round_up(end - begin, Row::kBlock)};
}

// Where a row of the ordered left operand begins in a panel.
template <class Row>
int64_t lhs_at(const Operands& p, int64_t batch, int64_t row, const Panel& panel) {
  return (batch * round_up(p.k, Row::kBlock) + panel.begin) * p.m + row * panel.width;
}

// A few rows of the weight. Where there are fewer than `kColumns`, the last one is repeated.
struct Columns {
  const uint8_t* codes[kColumns];
  const float* scales[kColumns];  // of the groups; one that is 1 where there are none
  Quad row_scales;
  int64_t count;

  Columns(const Operands& p, int64_t batch, int64_t n)
      : count(std::min<int64_t>(kColumns, p.n - n)) {
    for (int c = 0; c < kColumns; ++c) {
      const int64_t row = batch * p.n + n + std::min<int64_t>(c, count - 1);
      codes[c] = p.rhs + row * p.row_bytes();
      scales[c] = p.grouped() ? p.rhs_scale + row * p.groups : &kOne;
      row_scales[c] = p.grouped() ? 1 : p.rhs_scale[row];
    }
  }
};

template <class Isa, int kRows>
using Sums = typename Isa::Floats[kRows][kColumns];

// Adds the products of a block. Each row of x lies `width` floats behind the one before.
template <int kRows, class Row>
QPASS_INLINE void add_block(const Row (&rows)[kColumns], const uint8_t* const (&codes)[kColumns],
                            int64_t offset, const float* x, int64_t width,
                            Sums<typename Row::Isa, kRows>& sums) {
  using Isa = typename Row::Isa;
  QPASS_UNROLLED for (int c = 0; c < kColumns; ++c) {
    typename Row::Registers weights;
    rows[c].decode(codes[c] + offset, weights);
    QPASS_UNROLLED for (int v = 0; v < Row::kVectors; ++v) {
      QPASS_UNROLLED for (int r = 0; r < kRows; ++r) {
        const auto values = load<typename Isa::Floats>(x + r * width + v * Isa::kLanes);
        sums[r][c] = Isa::fma(values, weights[v], sums[r][c]);
      }
    }
  }
}

// The last block of K, where there is less than a whole one: read from a copy filled up with zeros.
template <int kRows, class Row>
QPASS_INLINE void add_rest(const Row (&rows)[kColumns], const Columns& w, const Panel& panel,
                           const float* x, Sums<typename Row::Isa, kRows>& sums) {
  const int64_t rest = (panel.end - panel.begin) % Row::kBlock;
  if (rest == 0) return;
  uint8_t copies[kColumns][Row::kBytes] = {};
  const uint8_t* codes[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    std::memcpy(copies[c], w.codes[c] + Row::bytes(panel.end - rest), Row::bytes(rest));
    codes[c] = copies[c];
  }
  const int64_t whole = panel.end - panel.begin - rest;
  add_block<kRows>(rows, codes, 0, x + whole, panel.width, sums);
}

// The rows of the weight, with the scales of a group.
template <class Row>
QPASS_INLINE void rescale(const Operands& p, const Columns& w, int64_t group,
                          Row (&rows)[kColumns]) {
  QPASS_UNROLLED for (int c = 0; c < kColumns; ++c) rows[c].rescale(p, w.scales[c][group]);
}

// Adds the products of a panel, whose groups end where blocks do.
template <int kRows, class Row>
QPASS_INLINE void add_panel(const Operands& p, const Columns& w, const Panel& panel, const float* x,
                            Sums<typename Row::Isa, kRows>& sums) {
  Row rows[kColumns];
  int64_t k = panel.begin;
  for (int64_t group = k / p.group; k < panel.end; ++group) {
    rescale(p, w, group, rows);
    const int64_t end = std::min((group + 1) * p.group, panel.end);
    for (; k + Row::kBlock <= end; k += Row::kBlock) {
      add_block<kRows>(rows, w.codes, Row::bytes(k), x + (k - panel.begin), panel.width, sums);
    }
    if (k < end) break;
  }
  add_rest<kRows>(rows, w, panel, x, sums);
}

// The same where each group is a block: scaled tables never leave their registers (measured in
// SmolLM2-135M with 4 bits in groups of 32, one token at a time: 1.1 times as fast).
template <int kRows, class Row>
QPASS_INLINE void add_panel_of_blocks(const Operands& p, const Columns& w, const Panel& panel,
                                      const float* x, Sums<typename Row::Isa, kRows>& sums) {
  int64_t k = panel.begin, group = k / Row::kBlock;
  for (; k + Row::kBlock <= panel.end; k += Row::kBlock, ++group) {
    Row rows[kColumns];
    rescale(p, w, group, rows);
    add_block<kRows>(rows, w.codes, Row::bytes(k), x + (k - panel.begin), panel.width, sums);
  }
  if (k == panel.end) return;
  Row rows[kColumns];
  rescale(p, w, group, rows);
  add_rest<kRows>(rows, w, panel, x, sums);
}

// The same where each block holds several groups.
template <int kRows, class Row>
QPASS_INLINE void add_fine_panel(const Operands& p, const Columns& w, const Panel& panel,
                                 const float* x, Sums<typename Row::Isa, kRows>& sums) {
  Row rows[kColumns];
  for (auto& row : rows) row.begin(p);
  int64_t k = panel.begin, group = k / p.group;
  const auto enter = [&] {
    for (int c = 0; c < kColumns; ++c) rows[c].enter(w.scales[c] + group, p.groups - group);
  };
  for (; k + Row::kBlock <= panel.end; k += Row::kBlock, group += Row::kBlock / p.group) {
    enter();
    add_block<kRows>(rows, w.codes, Row::bytes(k), x + (k - panel.begin), panel.width, sums);
  }
  if (k == panel.end) return;
  enter();
  add_rest<kRows>(rows, w, panel, x, sums);
}

// Copies floats; four, which is the rule, by one instruction.
QPASS_INLINE void copy(void* to, const void* from, int64_t count) {
  if (count == kColumns) {
    std::memcpy(to, from, sizeof(Quad));
  } else {
    std::memcpy(to, from, count * sizeof(float));
  }
}

// Adds the sums of a panel to a row of the result.
template <class Isa>
QPASS_INLINE void put(const Operands& p, const Panel& panel, const Columns& w,
                      const typename Isa::Floats (&sums)[kColumns], float* out) {
  Quad total = {};
  if (panel.begin > 0) copy(&total, out, w.count);
  total += Isa::sums(sums[0], sums[1], sums[2], sums[3]);
  if (panel.end == p.k) total *= w.row_scales;
  copy(out, &total, w.count);
}

// Calls visit with the number of rows, up to kMost, as a constant.
template <int kMost, class Visit>
QPASS_INLINE void with_rows(int64_t rows, const Visit& visit) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return with_rows<kMost - 1>(rows, visit);
  }
  visit(std::integral_constant<int, kMost>());
}

}  // namespace
}  // namespace qpass::floating
