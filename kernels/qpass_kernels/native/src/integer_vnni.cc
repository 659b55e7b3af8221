// Integer products with the dot products of AVX-512: four codes of a lane at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#define QPASS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

#include "integer_tile.h"

namespace qpass {
namespace {

struct Vnni {
  static constexpr int64_t kLanes = 16, kCodes = 4, kRows = 12;
  using Code = int8_t;
  using Units = __m512i;
  using Sums = __m512i;

  // The instruction takes codes of the right operand unsigned: 8 bits as code + 128, 4 as code + 8.
  template <int kBits>
  static constexpr int32_t kOffset = kBits == 8 ? 128 : 8;
  template <int kBits>
  static constexpr int kOrder[8] = {0, kBits == 8 ? 1 : 2, kBits == 8 ? 2 : 4, kBits == 8 ? 3 : 6, 1, 3, 5, 7};

  // Four rounds of exchanging blocks of 1, 2, 4 and 8 lanes between pairs of rows.
  QPASS_TARGET static void transpose(const uint8_t* const* rows, Units* to) {
    Units a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i]);
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; ++i) quarters(a + i, to + i);
  }

  // Lane i of quarter q of each of four vectors goes to quarter i of vector q.
  QPASS_TARGET static void quarters(const Units* a, Units* to) {
    const Units even_low = _mm512_shuffle_i32x4(a[0], a[4], 0x88);
    const Units odd_low = _mm512_shuffle_i32x4(a[0], a[4], 0xdd);
    const Units even_high = _mm512_shuffle_i32x4(a[8], a[12], 0x88);
    const Units odd_high = _mm512_shuffle_i32x4(a[8], a[12], 0xdd);
    to[0] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    to[4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    to[8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    to[12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }

  template <int kBits>
  QPASS_TARGET static void expand(Units units, Code* to, int64_t stride) {
    if constexpr (kBits == 8) {
      store(_mm512_xor_si512(units, _mm512_set1_epi8(-128)), to);
    } else {
      const Units low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8(8);
      store(_mm512_xor_si512(_mm512_and_si512(units, low), flip), to);
      units = _mm512_srli_epi16(units, 4);
      store(_mm512_xor_si512(_mm512_and_si512(units, low), flip), to + stride);
    }
  }

  QPASS_TARGET static void store(Units units, void* to) { _mm512_storeu_si512(to, units); }
  QPASS_TARGET static Sums fill(int32_t value) { return _mm512_set1_epi32(value); }
  QPASS_TARGET static Sums load(const int32_t* from) { return _mm512_loadu_si512(from); }
  QPASS_TARGET static void save(Sums sums, int32_t* to) { _mm512_storeu_si512(to, sums); }

  QPASS_TARGET static Sums dot(Sums sums, const Code* panel, const Code* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(panel), _mm512_set1_epi32(four));
  }

  QPASS_TARGET static void add_scaled(Sums sums, float row, const float* columns, float* totals) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(row));
    const __m512 term = _mm512_mul_ps(scaled, _mm512_loadu_ps(columns));
    _mm512_storeu_ps(totals, _mm512_add_ps(_mm512_loadu_ps(totals), term));
  }
};

}  // namespace

const Form kVnniInteger = form_of<Vnni>(Isa::kVnni);

}  // namespace qpass

#endif
