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

  QPASS_TARGET static void add_scaled(Sums sums, float row, const float* columns, float* totals) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(row));
    const __m512 term = _mm512_mul_ps(scaled, _mm512_loadu_ps(columns));
    _mm512_storeu_ps(totals, _mm512_add_ps(_mm512_loadu_ps(totals), term));
  }
};

}  // namespace
}  // namespace qpass
