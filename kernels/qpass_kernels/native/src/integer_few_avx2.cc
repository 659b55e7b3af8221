// Integer products of few rows with AVX2: codes widened to 16 bits, exact for all of them.
#if defined(__x86_64__)

#define QPASS_TARGET __attribute__((target("avx2,fma,f16c")))

#include "integer_few.h"
#include "integer_lanes_avx2.h"

namespace qpass {
namespace {

struct Avx2 : Avx2Lanes {
  static constexpr int64_t kStrip = 16, kPart = 16, kTile = 2;

  QPASS_TARGET static Sums dot_wide(Sums sums, __m128i codes, const Code* x) {
    return add(sums, _mm256_madd_epi16(_mm256_cvtepi8_epi16(codes), load(x)));
  }

  template <int kBits>
  QPASS_TARGET static Sums dot(Sums sums, const uint8_t* row, const Code* x) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
    if constexpr (kBits == 8) return dot_wide(sums, codes, x);
    const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    const __m128i flipped = _mm_xor_si128(codes, _mm_set1_epi8(-120));
    const __m128i even = _mm_sub_epi8(_mm_and_si128(flipped, low), eight);
    const __m128i odd = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(flipped, 4), low), eight);
    return dot_wide(dot_wide(sums, even, x), odd, x + kStrip);
  }

  // Adds up the four lanes of each half: lane i of half h is then that of sums i.
  QPASS_TARGET static Sums reduce_four(const Sums* sums) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]),
                             _mm256_hadd_epi32(sums[2], sums[3]));
  }

  QPASS_TARGET static void reduce(const Sums (&sums)[8], int64_t, int32_t (*to)[8]) {
    const Sums a = reduce_four(sums), b = reduce_four(sums + 4);
    const Sums all = add(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(*to), all);
  }
};

}  // namespace

const Form kAvx2Few = few_form_of<Avx2>(Isa::kAvx2);

}  // namespace qpass

#endif
