// Plain C++: four floats, which every processor's compiler has registers for.
#include "floating_form.h"

namespace qpass::floating {
namespace {

struct Portable : Vectors<4> {
  static constexpr int kLanes = 4, kRows = 2, kDirectRows = 2, kFewRows = 4;

  struct Table {
    float values[16];
  };

  static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }

  static Ints widened(const uint8_t* codes) {
    Ints wide;
    for (int i = 0; i < kLanes; ++i) wide[i] = static_cast<int8_t>(codes[i]);
    return wide;
  }

  static Ints triples(const uint8_t* codes) { return triples_one_by_one<Ints>(codes); }

  static Table scaled(const float* table, float by) {
    Table result;
    for (int i = 0; i < 16; ++i) result.values[i] = table[i] * by;
    return result;
  }

  static Floats look_up(const Table& table, Ints index) {
    Floats found;
    for (int i = 0; i < kLanes; ++i) found[i] = table.values[index[i] & 15];
    return found;
  }

  static Quad sums(Floats a, Floats b, Floats c, Floats d) {
    return Quad{sum(a), sum(b), sum(c), sum(d)};
  }

  static float sum(Floats a) { return (a[0] + a[1]) + (a[2] + a[3]); }
};

}  // namespace

constexpr Form kPortable = form_of<Portable>(Isa::kPortable);

}  // namespace qpass::floating
