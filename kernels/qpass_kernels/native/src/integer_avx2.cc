// Integer products with AVX2: two codes of a lane at a time, widened to 16 bits.
//
// The instruction that multiplies bytes adds pairs of products up in 16 bits, where the pair
// (-128 * -128) * 2 does not fit; 16-bit codes are exact and take as many instructions.
#if defined(__x86_64__)

#define QPASS_TARGET __attribute__((target("avx2,fma,f16c")))

#include "integer_lanes_avx2.h"
#include "integer_tile.h"

namespace qpass {
namespace {

struct Avx2 : Avx2Lanes {
  static constexpr int64_t kCodes = 2, kRows = 6, kTall = 8, kWide = 8;

  template <int kBits>
  static constexpr int kOrder[8] = {0, kBits == 8 ? 2 : 4, 1, kBits == 8 ? 3 : 5, 2, 6, 3, 7};

  // Three rounds of exchanging blocks of 1, 2 and 4 lanes between pairs of rows.
  template <int kBits>
  QPASS_TARGET static void pack(const uint8_t* const* rows, char* to, int64_t step) {
    constexpr int64_t kSteps = kBits == 32 ? 1 : 16 / kBits;
    __m256i a[8], b[8];
    QPASS_UNROLL for (int i = 0; i < 8; ++i) a[i] = load(rows[i]);
    QPASS_UNROLL for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    QPASS_UNROLL for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    QPASS_UNROLL for (int i = 0; i < 4; ++i, to += kSteps * step) {
      put<kBits>(_mm256_permute2x128_si256(a[i], a[i + 4], 0x20), to, step);
      put<kBits>(_mm256_permute2x128_si256(a[i], a[i + 4], 0x31), to + 4 * kSteps * step, step);
    }
  }

  // A shift to the left and back takes codes out of 16 bits with their sign.
  template <int kBits>
  QPASS_TARGET static void put(__m256i units, char* to, int64_t step) {
    if constexpr (kBits == 32) return save(units, to);
    QPASS_UNROLL for (int i = 0; i < 16 / kBits; ++i) {
      const __m256i left = _mm256_slli_epi16(units, 16 - kBits * (i + 1));
      save(_mm256_srai_epi16(left, 16 - kBits), to + i * step);
    }
  }

  QPASS_TARGET static Sums dot(Sums sums, const Code* panel, const Code* x) {
    int32_t two;
    std::memcpy(&two, x, 4);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(load(panel), _mm256_set1_epi32(two)));
  }
};

}  // namespace

const Form kAvx2Integer = form_of<Avx2>(Isa::kAvx2);

}  // namespace qpass

#endif
