// Sums of integer products in the registers of AVX-512, for many rows and for few.
//
// Included by the file of each, which defines QPASS_TARGET.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace qpass {
namespace {

struct Avx512Lanes {
  static constexpr int64_t kLanes = 16;
  using Sums = __m512i;

  // The dot product takes codes of the right operand unsigned: 8 bits as code + 128, 4 as code + 8.
  static constexpr int32_t offset(int64_t bits) { return bits == 8 ? 128 : 8; }

  QPASS_TARGET static Sums fill(int32_t value) { return _mm512_set1_epi32(value); }
  QPASS_TARGET static Sums load(const void* from) { return _mm512_loadu_si512(from); }
  QPASS_TARGET static void save(Sums sums, void* to) { _mm512_storeu_si512(to, sums); }
  QPASS_TARGET static Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }

  // Writes up to four neighbours of each of kLanes rows: [neighbour][row].
  QPASS_TARGET static void turn(const float* const* rows, int64_t first, int64_t count, float* to) {
    const auto mask = static_cast<__mmask8>((1 << count) - 1);
    __m512 a[4];  // of rows i, i + 4, i + 8 and i + 12
    for (int i = 0; i < 4; ++i) {
      a[i] = _mm512_castps128_ps512(_mm_maskz_loadu_ps(mask, rows[i] + first));
      a[i] = _mm512_insertf32x4(a[i], _mm_maskz_loadu_ps(mask, rows[i + 4] + first), 1);
      a[i] = _mm512_insertf32x4(a[i], _mm_maskz_loadu_ps(mask, rows[i + 8] + first), 2);
      a[i] = _mm512_insertf32x4(a[i], _mm_maskz_loadu_ps(mask, rows[i + 12] + first), 3);
    }
    const __m512 low01 = _mm512_unpacklo_ps(a[0], a[1]), high01 = _mm512_unpackhi_ps(a[0], a[1]);
    const __m512 low23 = _mm512_unpacklo_ps(a[2], a[3]), high23 = _mm512_unpackhi_ps(a[2], a[3]);
    _mm512_storeu_ps(to, _mm512_shuffle_ps(low01, low23, 0x44));
    _mm512_storeu_ps(to + 16, _mm512_shuffle_ps(low01, low23, 0xee));
    _mm512_storeu_ps(to + 32, _mm512_shuffle_ps(high01, high23, 0x44));
    _mm512_storeu_ps(to + 48, _mm512_shuffle_ps(high01, high23, 0xee));
  }

  QPASS_TARGET static void add_scaled(Sums sums, float row, const float* columns, float* totals) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(row));
    const __m512 term = _mm512_mul_ps(scaled, _mm512_loadu_ps(columns));
    _mm512_storeu_ps(totals, _mm512_add_ps(_mm512_loadu_ps(totals), term));
  }
};

}  // namespace
}  // namespace qpass
