// NEON: four floats; a table of sixteen is four registers, searched by bytes.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "floating_form.h"

namespace qpass::floating {
namespace {

struct Neon : Vectors<4> {
  static constexpr int kLanes = 4, kRows = 5, kDirectRows = 3, kFewRows = 8;
  using Table = uint8x16x4_t;

  static Floats fma(Floats a, Floats b, Floats c) {
    return as<Floats>(vfmaq_f32(as<float32x4_t>(c), as<float32x4_t>(a), as<float32x4_t>(b)));
  }

  static Ints widened(const uint8_t* codes) {
    int32_t four;
    std::memcpy(&four, codes, sizeof four);
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return as<Ints>(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
  }

  static Ints triples(const uint8_t* codes) { return triples_one_by_one<Ints>(codes); }

  static Table scaled(const float* table, float by) {
    Table result;
    for (int i = 0; i < 4; ++i) result.val[i] = as<uint8x16_t>(load<Floats>(table + 4 * i) * by);
    return result;
  }

  // The four bytes of a float are found one by one.
  static Floats look_up(const Table& table, Ints index) {
    const Ints bytes = (index & 15) * 0x04040404 + 0x03020100;
    return as<Floats>(vqtbl4q_u8(table, as<uint8x16_t>(bytes)));
  }

  static Quad sums(Floats a, Floats b, Floats c, Floats d) {
    const float32x4_t ab = vpaddq_f32(as<float32x4_t>(a), as<float32x4_t>(b));
    const float32x4_t cd = vpaddq_f32(as<float32x4_t>(c), as<float32x4_t>(d));
    return as<Quad>(vpaddq_f32(ab, cd));
  }
};

}  // namespace

constexpr Form kNeon = form_of<Neon>(Isa::kNeon);

}  // namespace qpass::floating
#endif
