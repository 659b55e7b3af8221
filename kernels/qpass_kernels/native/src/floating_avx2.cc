// AVX2: eight floats; a table of sixteen is two registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include "floating.h"
#include "floating_target.h"

QPASS_BEGIN("avx2,fma")
#include "floating_form.h"

namespace qpass::floating {
namespace {

struct Avx2 : Vectors<8> {
  static constexpr int kLanes = 8, kRows = 3, kDirectRows = 2, kFewRows = 4;

  struct Table {
    Floats low, high;
  };

  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

  static Ints widened(const uint8_t* codes) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
    return reinterpret_cast<Ints>(_mm256_cvtepi8_epi32(bytes));
  }

  // Four lanes from either half of the 24 bytes; both loads stay within these.
  static Ints triples(const uint8_t* codes) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 8));
    const __m256i order = _mm256_setr_epi8(  //
        0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
        4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    return reinterpret_cast<Ints>(_mm256_shuffle_epi8(_mm256_set_m128i(high, low), order));
  }

  static Table scaled(const float* table, float by) {
    return {load<Floats>(table) * by, load<Floats>(table + 8) * by};
  }

  // Three bits choose in both halves, the fourth between them: it becomes the sign.
  static Floats look_up(const Table& table, Ints index) {
    const auto at = reinterpret_cast<__m256i>(index);
    const __m256 low = _mm256_permutevar8x32_ps(table.low, at);
    const __m256 high = _mm256_permutevar8x32_ps(table.high, at);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
  }

  static Quad sums(Floats a, Floats b, Floats c, Floats d) {
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  }
};

}  // namespace

constexpr Form kAvx2 = form_of<Avx2>(Isa::kAvx2);

}  // namespace qpass::floating
QPASS_END
#endif
