// Integer products with the dot products of AVX-512: four codes of a lane at a time.
#if defined(__x86_64__)

#define QPASS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

#include "integer_lanes_avx512.h"
#include "integer_tile.h"

namespace qpass {
namespace {

struct Vnni : Avx512Lanes {
  static constexpr int64_t kCodes = 4, kRows = 12, kTall = 8, kWide = 16;
  using Code = int8_t;

  template <int kBits>
  static constexpr int kOrder[8] = {0, kBits == 8 ? 1 : 2, kBits == 8 ? 2 : 4, kBits == 8 ? 3 : 6, 1, 3, 5, 7};

  // Three rounds of exchanging blocks of 1, 2 and 4 lanes between pairs of rows.
  template <int kBits>
  QPASS_TARGET static void pack(const uint8_t* const* rows, char* to, int64_t step) {
    constexpr int64_t kSteps = kBits == 4 ? 2 : 1;
    __m512i a[8], b[8];
    QPASS_UNROLL for (int i = 0; i < 8; ++i) a[i] = _mm512_loadu_si512(rows[i]);
    QPASS_UNROLL for (int i = 0; i < 8; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    QPASS_UNROLL for (int i = 0; i < 8; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    const __m512i high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    QPASS_UNROLL for (int64_t i = 0; i < 4; ++i, to += kSteps * step) {
      put<kBits>(_mm512_permutex2var_epi64(a[i], low, a[i + 4]), to, 4 * kSteps * step, step);
      put<kBits>(_mm512_permutex2var_epi64(a[i], high, a[i + 4]), to + 8 * kSteps * step,
                 4 * kSteps * step, step);
    }
  }

  // Writes the units of 8 rows, and those of the same rows `next` bytes further on.
  template <int kBits>
  QPASS_TARGET static void put(__m512i units, char* to, int64_t next, int64_t step) {
    const __m512i low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8(static_cast<char>(offset(kBits)));
    if constexpr (kBits == 32) {
      put_halves(units, to, next);
    } else if constexpr (kBits == 8) {
      put_halves(_mm512_xor_si512(units, flip), to, next);
    } else {
      const __m512i odd = _mm512_srli_epi16(units, 4);
      put_halves(_mm512_xor_si512(_mm512_and_si512(units, low), flip), to, next);
      put_halves(_mm512_xor_si512(_mm512_and_si512(odd, low), flip), to + step, next);
    }
  }

  QPASS_TARGET static void put_halves(__m512i units, char* to, int64_t next) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(units));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + next), _mm512_extracti64x4_epi64(units, 1));
  }

  QPASS_TARGET static Sums dot(Sums sums, const Code* panel, const Code* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(panel), _mm512_set1_epi32(four));
  }
};

}  // namespace

const Form kVnniInteger = form_of<Vnni>(Isa::kVnni);

}  // namespace qpass

#endif
