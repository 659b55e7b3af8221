// Integer products with the dot products of Arm 8.2: four codes of a lane at a time.
#if defined(__aarch64__)

#if defined(__clang__)
#define QPASS_TARGET __attribute__((target("dotprod")))
#else
#define QPASS_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

#include "integer_neon.h"

namespace qpass {
namespace {

struct NeonDot : NeonBase {
  static constexpr int64_t kCodes = 4, kSteps = 1;

  template <int kBits>
  QPASS_TARGET static void pack(const uint8_t* const* rows, char* to, int64_t step) {
    neon_pack<NeonDot, kBits>(rows, to, step);
  }

  QPASS_TARGET static void put(int8x16_t four, char* to, int64_t) { set(four, to); }

  QPASS_TARGET static Sums dot(Sums sums, const Code* panel, const Code* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return vdotq_s32(sums, vld1q_s8(panel), vreinterpretq_s8_s32(vdupq_n_s32(four)));
  }
};

}  // namespace

const Form kNeonDotInteger = form_of<NeonDot>(Isa::kNeonDot);

}  // namespace qpass

#endif
