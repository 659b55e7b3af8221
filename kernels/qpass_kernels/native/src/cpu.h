// What this machine's processor has. Asked at run time: the library is compiled for any of them.
#pragma once

#include <cstdlib>
#include <string_view>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qpass {

// Instruction sets that the kernels are written for; on one processor a later one is faster.
enum class Isa {
  kPortable,  // plain C++
  kAvx2,      // with fma and f16c
  kAvx512,    // foundation, byte and word, double and quad word, vector length
  kVnni,      // kAvx512 and its 8-bit dot products
  kNeon,      // every 64-bit Arm
  kNeonDot,   // kNeon and its 8-bit dot products
};

inline std::string_view name_of(Isa isa) {
  constexpr std::string_view names[] = {"portable", "avx2", "avx512", "vnni", "neon", "neondot"};
  return names[static_cast<int>(isa)];
}

constexpr Isa kFastest = Isa::kNeonDot;

// The environment variable QPASS_CPU_ISA forbids all above the one that it names.
inline Isa highest() {
  static const Isa highest = [] {
    const char* asked = std::getenv("QPASS_CPU_ISA");
    for (int i = 0; asked != nullptr && i <= static_cast<int>(kFastest); ++i)
      if (name_of(static_cast<Isa>(i)) == asked) return static_cast<Isa>(i);
    return kFastest;
  }();
  return highest;
}

#if defined(__x86_64__)

// Every processor with AVX2 and FMA has f16c, which older compilers cannot ask for.
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

inline bool machine_has(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return true;
    case Isa::kAvx2: return has_avx2();
    case Isa::kAvx512: return has_avx512();
    case Isa::kVnni: return has_avx512() && __builtin_cpu_supports("avx512vnni");
    default: return false;
  }
}

#elif defined(__aarch64__)

inline bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProducts;
#else
  return true;  // every Arm Mac
#endif
}

inline bool machine_has(Isa isa) {
  return isa == Isa::kPortable || isa == Isa::kNeon || (isa == Isa::kNeonDot && has_dot_products());
}

#else

inline bool machine_has(Isa isa) { return isa == Isa::kPortable; }

#endif

inline bool has(Isa isa) { return isa <= highest() && machine_has(isa); }

}  // namespace qpass
