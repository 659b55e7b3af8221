// What integer products with and without dot products of bytes share on 64-bit Arm.
//
// Included by the file of each, which defines QPASS_TARGET.
#pragma once

#include <arm_neon.h>

#include "integer_tile.h"

namespace qpass {
namespace {

struct NeonBase {
  static constexpr int64_t kLanes = 4, kRows = 8, kTall = 4, kWide = 4;
  using Code = int8_t;
  using Sums = int32x4_t;

  static constexpr int32_t offset(int64_t) { return 0; }

  template <int kBits>
  static constexpr int kOrder[8] = {0, kBits == 8 ? 1 : 2, kBits == 8 ? 2 : 4, kBits == 8 ? 3 : 6,
                                    1, 3, 5, 7};

  // Unit i of each of four rows goes to vector i.
  QPASS_TARGET static void transpose(const uint8_t* const* rows, int8x16_t (&units)[4]) {
    int32x4_t a[4];
    QPASS_UNROLL for (int i = 0; i < 4; ++i) a[i] = vreinterpretq_s32_u8(vld1q_u8(rows[i]));
    const int64x2_t even_low = vreinterpretq_s64_s32(vtrn1q_s32(a[0], a[1]));
    const int64x2_t odd_low = vreinterpretq_s64_s32(vtrn2q_s32(a[0], a[1]));
    const int64x2_t even_high = vreinterpretq_s64_s32(vtrn1q_s32(a[2], a[3]));
    const int64x2_t odd_high = vreinterpretq_s64_s32(vtrn2q_s32(a[2], a[3]));
    units[0] = vreinterpretq_s8_s64(vtrn1q_s64(even_low, even_high));
    units[1] = vreinterpretq_s8_s64(vtrn1q_s64(odd_low, odd_high));
    units[2] = vreinterpretq_s8_s64(vtrn2q_s64(even_low, even_high));
    units[3] = vreinterpretq_s8_s64(vtrn2q_s64(odd_low, odd_high));
  }

  QPASS_TARGET static void set(int8x16_t value, char* to) {
    vst1q_s8(reinterpret_cast<int8_t*>(to), value);
  }
  QPASS_TARGET static Sums fill(int32_t value) { return vdupq_n_s32(value); }
  QPASS_TARGET static Sums load(const int32_t* from) { return vld1q_s32(from); }
  QPASS_TARGET static void save(Sums sums, int32_t* to) { vst1q_s32(to, sums); }

  QPASS_TARGET static void add_scaled(Sums sums, float row, const float* columns, float* totals) {
    const float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(sums), row);
    const float32x4_t term = vmulq_f32(scaled, vld1q_f32(columns));
    vst1q_f32(totals, vaddq_f32(vld1q_f32(totals), term));
  }
};

// Packs with V::put, which writes four codes of each lane, in V::kSteps steps.
template <class V, int kBits>
QPASS_TARGET inline void neon_pack(const uint8_t* const* rows, char* to, int64_t step) {
  int8x16_t units[4];
  NeonBase::transpose(rows, units);
  QPASS_UNROLL for (int i = 0; i < 4; ++i) {
    if constexpr (kBits == 32) {
      NeonBase::set(units[i], to + i * step);
    } else if constexpr (kBits == 8) {
      V::put(units[i], to + i * V::kSteps * step, step);
    } else {
      V::put(vshrq_n_s8(vshlq_n_s8(units[i], 4), 4), to + 2 * i * V::kSteps * step, step);
      V::put(vshrq_n_s8(units[i], 4), to + (2 * i + 1) * V::kSteps * step, step);
    }
  }
}

}  // namespace
}  // namespace qpass
