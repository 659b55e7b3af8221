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

template <class... Rows>
constexpr Form form_of_rows(qpass::Isa name) {
  return {name, {Rows::kBlock...}, {order_row<Rows>...}, {multiply<Rows>...}};
}

// A constant: nothing of this may run when a machine without the instructions loads the library.
template <class Isa>
constexpr Form form_of(qpass::Isa name) {
  using Four = Dense<Isa, 4>;
  return form_of_rows<Int8<Isa>, Four, Dense<Isa, 3>, Dense<Isa, 2>, Minifloats<Isa>>(name);
}

}  // namespace
}  // namespace qpass::floating
