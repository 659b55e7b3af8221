// Rows of codes, decoded to registers of floats and multiplied by their group's scale.
//
// Written with the compilers' vector types, so that one text serves all instruction sets. An `Isa`
// adds what operators cannot say: fma, widened and triples (one or three bytes to each lane of a
// register), sums (of four registers), and tables of 16 floats: scaled, look_up. Its file names the
// instructions and then includes this, hence a namespace without a name.
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

// Three bytes to a lane, for an `Isa` without better instructions.
template <class Ints>
QPASS_INLINE Ints triples_one_by_one(const uint8_t* codes) {
  int32_t lanes[sizeof(Ints) / 4];
  for (int32_t& lane : lanes) {
    lane = codes[0] | codes[1] << 8 | codes[2] << 16;
    codes += 3;
  }
  return load<Ints>(lanes);
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
  static constexpr bool kFine = false;

  static int64_t bytes(int64_t k) { return ceil_div(k * kBytes, kBlock); }

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

// Codes of a few bits: to a lane go as many as fill whole bytes, and to a register one of each. The
// table is scaled instead of what is looked up: the same products, fewer.
constexpr int whole_bytes(int bits) { return bits == 3 ? 3 : 1; }

template <class Isa, int kBits>
struct Dense : RowOf<Isa, 8 * whole_bytes(kBits) / kBits, whole_bytes(kBits) * Isa::kLanes> {
  typename Isa::Table table;

  void rescale(const Operands& p, float by) { table = Isa::scaled(p.table, by); }

  void decode(const uint8_t* codes, typename Dense::Registers& out) const {
    typename Isa::Ints words;
    if constexpr (kBits == 3) {
      words = Isa::triples(codes);
    } else {
      words = Isa::widened(codes);
    }
    QPASS_UNROLLED for (int v = 0; v < Dense::kVectors; ++v) {
      out[v] = Isa::look_up(table, words >> (kBits * v));
    }
  }
};

// The same where a block holds several groups: each lane has the scale of its own.
template <class Row>
struct Fine : Row {
  using Isa = typename Row::Isa;
  static constexpr bool kFine = true;
  typename Row::Ints group_of_lane;
  typename Row::Floats scales;

  void begin(const Operands& p) {
    this->rescale(p, 1);
    int32_t groups[Isa::kLanes];
    for (int i = 0; i < Isa::kLanes; ++i) groups[i] = i * Row::kVectors / p.group;
    group_of_lane = load<typename Row::Ints>(groups);
  }

  // `all`: scales of the row's last `left` groups, the first of which begins with the block.
  void enter(const float* all, int64_t left) {
    float copy[16] = {};
    if (left < 16) {
      std::memcpy(copy, all, left * sizeof(float));
      all = copy;
    }
    scales = Isa::look_up(Isa::scaled(all, 1), group_of_lane);
  }

  void decode(const uint8_t* codes, typename Row::Registers& out) const {
    Row::decode(codes, out);
    QPASS_UNROLLED for (int v = 0; v < Row::kVectors; ++v) out[v] *= scales;
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
