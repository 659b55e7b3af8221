// Rows of floats as int8 codes with a scale for each group: the formula of the dialect qpass.
//
// Every step is the same float operation as in `qpass.numerics.formulas`, so codes and scales have
// the same bits. Subnormal numbers count as zeros, as in all that XLA compiles for CPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "half.h"

namespace qpass::rows {

struct Operands {
  int64_t rows, k;
  int64_t group;   // neighbours that share a scale
  int64_t groups;  // of a row
  float most;      // with which code -128 means about the greatest number of the floats' own type
  const float* x;  // [rows, k]
  int8_t* codes;   // [rows, k]
  float* scales;   // [rows, groups]
};

// How far the finite numbers of a group reach to either side, as the bits of magnitudes, whose
// order is that of the numbers.
struct Reach {
  int32_t below, above;
};

// The bits of a number if it is positive, normal and finite; else 0.
inline __attribute__((always_inline)) int32_t counted(int32_t bits) {
  constexpr int32_t kLeastNormal = 0x00800000, kInfinity = 0x7f800000;
  return (bits >= kLeastNormal) & (bits < kInfinity) ? bits : 0;
}

inline __attribute__((always_inline)) Reach reach_of(const float* x, int64_t count) {
  Reach reach{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = bits_of(x[i]);
    const int32_t above = counted(bits), below = counted(bits ^ 0x80000000);
    reach.below = below > reach.below ? below : reach.below;
    reach.above = above > reach.above ? above : reach.above;
  }
  return reach;
}

// No larger than with which a number of the type comes back finite. The outermost code of the
// longer side is not reached if the scale is larger by half a step; it may then be a whole one.
inline float capped(float scale, float most) {
  const float outside = most * static_cast<float>(128.0 / 127.0);
  const float half = most * static_cast<float>(128.0 / 127.5 * (1 + 0x1p-20));
  return scale > most && scale < half ? most : std::min(scale, outside);
}

// The least with which nothing is clipped: the larger side lies on the codes to -128, with a
// negative scale where that is the positive one.
inline float scale_of(const Reach& reach, float most) {
  const float below = float_of(reach.below), above = float_of(reach.above);
  const float longer = std::max(below, above), shorter = std::min(below, above);
  if (longer == 0) return 1;
  const float least =
      std::max(longer * static_cast<float>(1.0 / 128), shorter * static_cast<float>(1.0 / 127));
  const float size = capped(std::clamp(least, 0x1p-126f, 0x1p126f), most);
  return above > below ? -size : size;
}

// NaN becomes 0. Above this number floats lie one apart: what is added to it is rounded to a whole
// number, ties to even, which are then the lowest bits.
inline __attribute__((always_inline)) int8_t code_of(float place) {
  constexpr float kWhole = 0x1.8p23f;
  place = place == place ? place : 0.0f;
  place = place > -128.0f ? place : -128.0f;
  place = place < 127.0f ? place : 127.0f;
  return static_cast<int8_t>(bits_of(place + kWhole));
}

inline __attribute__((always_inline)) void quantize_group(const Operands& p, int64_t at,
                                                          int64_t count, float* scale) {
  const float* x = p.x + at;
  int8_t* codes = p.codes + at;
  *scale = scale_of(reach_of(x, count), p.most);
  const float inverse = 1 / *scale;
  for (int64_t i = 0; i < count; ++i) codes[i] = code_of(x[i] * inverse);
}

inline __attribute__((always_inline)) void quantize_row(const Operands& p, int64_t row) {
  for (int64_t group = 0; group < p.groups; ++group) {
    const int64_t start = group * p.group;
    quantize_group(p, row * p.k + start, std::min(p.group, p.k - start),
                   p.scales + row * p.groups + group);
  }
}

}  // namespace qpass::rows
