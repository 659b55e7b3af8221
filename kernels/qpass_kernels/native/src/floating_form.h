// What an instruction set's file makes of its `Isa`: the functions of a `Form`.
#pragma once

#include "floating_loops.h"

namespace qpass::floating {
namespace {

template <class Row>
void order_block(const float* from, int64_t count, float* to) {
  float whole[Row::kBlock] = {};
  if (count < Row::kBlock) {
    std::memcpy(whole, from, count * sizeof(float));
    from = whole;
  }
  for (int v = 0; v < Row::kVectors; ++v) {
    for (int i = 0; i < Row::Isa::kLanes; ++i) *to++ = from[i * Row::kVectors + v];
  }
}

// Copies a row of the left operand, counted through all batches, to where the kernels read it.
template <class Row>
void order_row(const Operands& p, int64_t row, float* lhs) {
  for (int64_t begin = 0; begin < p.k; begin += kPanel) {
    const Panel panel = panel_at<Row>(p, begin);
    float* to = lhs + lhs_at<Row>(p, row / p.m, row % p.m, panel);
    for (int64_t k = begin; k < panel.end; k += Row::kBlock, to += Row::kBlock) {
      order_block<Row>(p.lhs + row * p.k + k, std::min(Row::kBlock, panel.end - k), to);
    }
  }
}

// A constant: nothing of this may run when a machine without the instructions loads the library.
template <class Isa>
constexpr Form form_of(qpass::Isa name) {
  return {name,
          Isa::kLanes,
          {order_row<Int8<Isa>>, order_row<Nibbles<Isa>>, order_row<Minifloats<Isa>>},
          {multiply<Int8<Isa>>, multiply<Nibbles<Isa>>, multiply<Minifloats<Isa>>}};
}

}  // namespace
}  // namespace qpass::floating
