// Integer products in plain C++, for processors that no other file is written for.
#define QPASS_TARGET

#include "integer_tile.h"

namespace qpass {
namespace {

struct Portable {
  static constexpr int64_t kLanes = 4, kCodes = 2, kRows = 2, kTall = 4, kWide = 4;
  using Code = int16_t;
  struct Sums {
    int32_t lanes[kLanes];
  };

  static constexpr int32_t offset(int64_t) { return 0; }

  template <int kBits>
  static constexpr int kOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};

  // Code i of a unit; four bits from the low half of a byte first.
  template <int kBits>
  static Code code(const uint8_t* unit, int i) {
    const int shifted = unit[i * kBits / 8] << (8 - kBits - i * kBits % 8);
    return static_cast<Code>(static_cast<int8_t>(shifted) >> (8 - kBits));
  }

  template <int kBits>
  static void pack(const uint8_t* const* rows, char* to, int64_t step) {
    for (int64_t unit = 0; unit < kWide; ++unit) {
      for (int64_t lane = 0; lane < kTall; ++lane) {
        put<kBits>(rows[lane] + unit * 4, to + lane * 4, step);
      }
      to += step * (kBits == 32 ? 1 : 16 / kBits);
    }
  }

  template <int kBits>
  static void put(const uint8_t* unit, char* to, int64_t step) {
    if constexpr (kBits == 32) {
      std::memcpy(to, unit, 4);
    } else {
      for (int i = 0; i < 32 / kBits; i += kCodes, to += step) {
        const Code pair[kCodes] = {code<kBits>(unit, i), code<kBits>(unit, i + 1)};
        std::memcpy(to, pair, sizeof pair);
      }
    }
  }

  static Sums fill(int32_t value) { return {{value, value, value, value}}; }
  static Sums load(const int32_t* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static void save(const Sums& sums, int32_t* to) { std::memcpy(to, &sums, sizeof sums); }

  static Sums dot(Sums sums, const Code* panel, const Code* x) {
    for (int64_t i = 0; i < kLanes; ++i) {
      sums.lanes[i] += panel[2 * i] * x[0] + panel[2 * i + 1] * x[1];
    }
    return sums;
  }

  static void add_scaled(const Sums& sums, float row, const float* columns, float* totals) {
    for (int64_t i = 0; i < kLanes; ++i) {
      totals[i] += static_cast<float>(sums.lanes[i]) * row * columns[i];
    }
  }
};

}  // namespace

const Form kPortableInteger = form_of<Portable>(Isa::kPortable);

}  // namespace qpass
