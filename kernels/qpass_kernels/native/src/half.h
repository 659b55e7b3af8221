// 16-bit floats as their bits, rounded to nearest even, on any processor.
#pragma once

#include <cstdint>
#include <cstring>

namespace qpass {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN, and a quiet one
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Below the normal numbers of float16, the addition of 0.5 does the rounding: the sum's last bit is
// worth as much as float16's.
inline uint16_t to_float16(float value) {
  const uint32_t sign = bits_of(value) >> 16 & 0x8000;
  const uint32_t bits = bits_of(value) & 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above
  if (bits < 0x38800000) {
    return static_cast<uint16_t>(sign | (bits_of(float_of(bits) + 0.5f) - bits_of(0.5f)));
  }
  const uint32_t rebiased = bits - (112u << 23);
  return static_cast<uint16_t>(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

}  // namespace qpass
