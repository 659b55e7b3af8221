// Integer products on any 64-bit Arm: two codes of a lane at a time.
#if defined(__aarch64__)

#define QPASS_TARGET

#include "integer_neon.h"

namespace qpass {
namespace {

struct Neon : NeonBase {
  static constexpr int64_t kCodes = 2, kSteps = 2;

  template <int kBits>
  static void pack(const uint8_t* const* rows, char* to, int64_t step) {
    neon_pack<Neon, kBits>(rows, to, step);
  }

  // The first two codes of each lane, then the last two.
  static void put(int8x16_t four, char* to, int64_t step) {
    const int16x8_t pairs = vreinterpretq_s16_s8(four);
    const int16x4_t low = vget_low_s16(pairs), high = vget_high_s16(pairs);
    vst1_s16(reinterpret_cast<int16_t*>(to), vuzp1_s16(low, high));
    vst1_s16(reinterpret_cast<int16_t*>(to + step), vuzp2_s16(low, high));
  }

  // A product of two codes fits in 16 bits; pairs of products are added up in 32.
  static Sums dot(Sums sums, const Code* panel, const Code* x) {
    int16_t two;
    std::memcpy(&two, x, sizeof two);
    const int8x8_t pair = vreinterpret_s8_s16(vdup_n_s16(two));
    return vpadalq_s16(sums, vmull_s8(vld1_s8(panel), pair));
  }
};

}  // namespace

const Form kNeonInteger = form_of<Neon>(Isa::kNeon);

}  // namespace qpass

#endif
