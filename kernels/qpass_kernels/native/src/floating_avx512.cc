// AVX-512: sixteen floats; a table of sixteen is one register.
#if defined(__x86_64__)
#include <immintrin.h>

#include "floating.h"
#include "floating_target.h"

QPASS_BEGIN("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#include "floating_form.h"

namespace qpass::floating {
namespace {

struct Avx512 : Vectors<16> {
  static constexpr int kLanes = 16, kRows = 6, kDirectRows = 4, kFewRows = 32;
  using Table = __m512;

  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

  static Ints widened(const uint8_t* codes) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    return reinterpret_cast<Ints>(_mm512_cvtepi8_epi32(bytes));
  }

  // Twelve of the 48 bytes go to each quarter of the register, and three of these to each lane.
  static Ints triples(const uint8_t* codes) {
    const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << 48) - 1, codes);
    const __m512i quarter = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    const __m512i quarters = _mm512_permutexvar_epi32(quarter, bytes);
    return reinterpret_cast<Ints>(_mm512_shuffle_epi8(quarters, order));
  }

  static Table scaled(const float* table, float by) { return load<Floats>(table) * by; }

  // Of an index only the lowest four bits count.
  static Floats look_up(Table table, Ints index) {
    return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), table);
  }

  static __m256 halved(Floats a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  }

  static Quad sums(Floats a, Floats b, Floats c, Floats d) {
    const __m256 ab = _mm256_hadd_ps(halved(a), halved(b));
    const __m256 cd = _mm256_hadd_ps(halved(c), halved(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  }
};

}  // namespace

constexpr Form kAvx512 = form_of<Avx512>(Isa::kAvx512);

}  // namespace qpass::floating
QPASS_END
#endif
