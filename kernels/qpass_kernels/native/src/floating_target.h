// Everything between QPASS_BEGIN and QPASS_END is compiled for the instructions named. Nothing else
// in the library is: headers of the standard library go before it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define QPASS_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define QPASS_BEGIN(names) \
  QPASS_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define QPASS_END QPASS_PRAGMA(clang attribute pop)
#else
#define QPASS_BEGIN(names) QPASS_PRAGMA(GCC push_options) QPASS_PRAGMA(GCC target(names))
#define QPASS_END QPASS_PRAGMA(GCC pop_options)
#endif
