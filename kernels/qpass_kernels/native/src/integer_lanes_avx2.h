// Sums of integer products in the registers of AVX2, for many rows and for few.
//
// Included by the file of each, which defines QPASS_TARGET.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace qpass {
namespace {

struct Avx2Lanes {
  static constexpr int64_t kLanes = 8;
  using Code = int16_t;
  using Sums = __m256i;

  static constexpr int32_t offset(int64_t) { return 0; }

  QPASS_TARGET static Sums fill(int32_t value) { return _mm256_set1_epi32(value); }
  QPASS_TARGET static Sums load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  QPASS_TARGET static void save(Sums sums, void* to) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), sums);
  }
  QPASS_TARGET static Sums add(Sums a, Sums b) { return _mm256_add_epi32(a, b); }

  // Writes up to four neighbours of each of kLanes rows: [neighbour][row].
  QPASS_TARGET static void turn(const float* const* rows, int64_t first, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t row = 0; row < kLanes; ++row) to[i * kLanes + row] = rows[row][first + i];
    }
  }

  QPASS_TARGET static void add_scaled(Sums sums, float row, const float* columns, float* totals) {
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(row));
    const __m256 term = _mm256_mul_ps(scaled, _mm256_loadu_ps(columns));
    _mm256_storeu_ps(totals, _mm256_add_ps(_mm256_loadu_ps(totals), term));
  }
};

}  // namespace
}  // namespace qpass
