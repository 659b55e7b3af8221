// Rows of codes, decoded to registers of floats and multiplied by their group's scale.
//
// Written with the compilers' vector types, so that one text serves all instruction sets. An `Isa`
// adds what operators cannot say: fma, widened (bytes to a register of integers), sums (of four
// registers), and tables of 16 floats: scaled, look_up. Its file names the instructions and then
// includes this, hence a namespace without a name.
#pragma once

#include <cstring>
#include <limits>

#include "floating.h"

// What is not inlined, or not unrolled, would keep its sums in memory.
#define QPASS_INLINE inline __attribute__((always_inline))
#define QPASS_UNROLLED _Pragma("GCC unroll 8")

namespace qpass::floating {
namespace {

template <int kLanes>
struct Vectors {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
};

typedef float Quad __attribute__((vector_size(16)));

template <class Vector>
QPASS_INLINE Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class To, class From>
QPASS_INLINE To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return load<To>(&from);
}

// What every kind of row has: the codes of a block, the bytes and the registers that they take.
template <class Isa_, int kRegisters, int kBytesOfBlock>
struct RowOf {
  using Isa = Isa_;
  using Floats = typename Isa::Floats;
  using Ints = typename Isa::Ints;
  using Registers = Floats[kRegisters];
  static constexpr int kVectors = kRegisters, kBytes = kBytesOfBlock;
  static constexpr int64_t kBlock = kRegisters * Isa::kLanes;

  static int64_t bytes(int64_t k) { return k * kBytes / kBlock; }

  // Where code i of a block lies in its registers.
  static int64_t place(int64_t i) { return i % kVectors * Isa::kLanes + i / kVectors; }
};

template <class Isa>
struct Int8 : RowOf<Isa, 1, Isa::kLanes> {
  float scale = 0;

  void rescale(const Operands&, float by) { scale = by; }

  void decode(const uint8_t* codes, typename Int8::Registers& out) const {
    out[0] = __builtin_convertvector(Isa::widened(codes), typename Isa::Floats) * scale;
  }
};

// Two codes to a byte. The table is scaled instead of what is looked up: the same products, fewer.
template <class Isa>
struct Nibbles : RowOf<Isa, 2, Isa::kLanes> {
  typename Isa::Table table;

  void rescale(const Operands& p, float by) { table = Isa::scaled(p.table, by); }

  void decode(const uint8_t* codes, typename Nibbles::Registers& out) const {
    const auto pairs = Isa::widened(codes);
    out[0] = Isa::look_up(table, pairs);
    out[1] = Isa::look_up(table, pairs >> 4);
  }
};

// 8-bit floats. Subnormals are multiplied out: XLA has float32 subnormals flushed to zero, so that
// shifting the bits and multiplying by a power of two would lose them.
template <class Isa>
struct Minifloats : RowOf<Isa, 1, Isa::kLanes> {
  using typename RowOf<Isa, 1, Isa::kLanes>::Floats;
  using typename RowOf<Isa, 1, Isa::kLanes>::Ints;
  Minifloat form;
  float least = 0;  // subnormal
  float scale = 0;

  void rescale(const Operands& p, float by) {
    form = p.minifloat;
    least = 1.0f / static_cast<float>(1 << (form.bias + form.mantissa - 1));
    scale = by;
  }

  void decode(const uint8_t* codes, Floats (&out)[1]) const {
    const Ints byte = Isa::widened(codes);  // the sign goes through all upper bits
    const Ints magnitude = byte & 0x7f;
    const Ints normal = (magnitude << (23 - form.mantissa)) + ((127 - form.bias) << 23);
    const Ints tiny = as<Ints>(__builtin_convertvector(magnitude, Floats) * least);
    const Ints bits = magnitude < (1 << form.mantissa) ? tiny : normal;
    const Ints signs = byte & std::numeric_limits<int32_t>::min();
    const Ints is_nan = (magnitude > form.largest) | (byte == form.nan);
    out[0] = as<Floats>(bits | signs | (is_nan & 0x7fc00000)) * scale;
  }
};

// Floats that have been decoded before.
template <class Isa>
struct Decoded : RowOf<Isa, 1, 4 * Isa::kLanes> {
  void decode(const uint8_t* codes, typename Decoded::Registers& out) const {
    out[0] = load<typename Isa::Floats>(codes);
  }
};

}  // namespace
}  // namespace qpass::floating
