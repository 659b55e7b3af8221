// Integer products of few rows with the dot products of AVX-512.
#if defined(__x86_64__)

#define QPASS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

#include "integer_few.h"
#include "integer_lanes_avx512.h"

namespace qpass {
namespace {

struct Vnni : Avx512Lanes {
  static constexpr int64_t kStrip = 64, kPart = 16, kTile = 4;
  using Code = int8_t;

  template <int kBits>
  QPASS_TARGET static Sums dot(Sums sums, const uint8_t* row, const Code* x) {
    if constexpr (kBits == 8) {
      const __m512i codes = _mm512_xor_si512(load(row), _mm512_set1_epi8(-128));
      return _mm512_dpbusd_epi32(sums, codes, load(x));
    } else {
      const __m512i low = _mm512_set1_epi8(15);
      const __m512i codes = _mm512_xor_si512(load(row), _mm512_set1_epi8(-120));
      sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(codes, low), load(x));
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low);
      return _mm512_dpbusd_epi32(sums, odd, load(x + kStrip));
    }
  }

  // Adds up the four lanes of each part: lane i of quarter q is then that of part q of sums i.
  QPASS_TARGET static Sums reduce_four(const Sums* sums) {
    const Sums ab = add(_mm512_unpacklo_epi32(sums[0], sums[1]),
                        _mm512_unpackhi_epi32(sums[0], sums[1]));
    const Sums cd = add(_mm512_unpacklo_epi32(sums[2], sums[3]),
                        _mm512_unpackhi_epi32(sums[2], sums[3]));
    return add(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }

  // Writes the sums of `groups` groups of each strip: [group][sums].
  QPASS_TARGET static void reduce(const Sums (&sums)[16], int64_t groups, int32_t (*to)[16]) {
    const Sums a = reduce_four(sums), b = reduce_four(sums + 4), c = reduce_four(sums + 8),
               d = reduce_four(sums + 12);
    const Sums ab02 = _mm512_shuffle_i32x4(a, b, 0x88), ab13 = _mm512_shuffle_i32x4(a, b, 0xdd);
    const Sums cd02 = _mm512_shuffle_i32x4(c, d, 0x88), cd13 = _mm512_shuffle_i32x4(c, d, 0xdd);
    const Sums part0 = _mm512_shuffle_i32x4(ab02, cd02, 0x88);
    const Sums part1 = _mm512_shuffle_i32x4(ab13, cd13, 0x88);
    const Sums part2 = _mm512_shuffle_i32x4(ab02, cd02, 0xdd);
    const Sums part3 = _mm512_shuffle_i32x4(ab13, cd13, 0xdd);
    if (groups == 4) return write(to, part0, part1, part2, part3);
    const Sums low = add(part0, part1), high = add(part2, part3);
    groups == 2 ? write(to, low, high) : write(to, add(low, high));
  }

  template <class... Parts>
  QPASS_TARGET static void write(int32_t (*to)[16], Parts... parts) {
    (_mm512_storeu_si512(*to++, parts), ...);
  }
};

}  // namespace

const Form kVnniFew = few_form_of<Vnni>(Isa::kVnni);

}  // namespace qpass

#endif
