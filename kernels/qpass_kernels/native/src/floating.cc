// The handler QpassFloating: floats by codes with scales, added up in float32.
#include "floating.h"

#include <iterator>
#include <memory>
#include <string_view>

#include "forms.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace qpass::floating {
namespace {

namespace ffi = xla::ffi;

// Fastest first.
const Form* const kForms[] = {
#if defined(__x86_64__)
    &kAvx512, &kAvx2,
#elif defined(__aarch64__)
    &kNeon,
#endif
    &kPortable,
};

constexpr int64_t kRows = 256;      // of a block: a tile of the weight is decoded once for so many
constexpr int64_t kWidth = 16;      // columns of a block; one tile at most
constexpr int64_t kGrain = 1 << 18; // multiplications that take as long as waking a thread

// The first form that the machine has; the one of that name where it is not empty.
const Form* form_for(std::string_view name) {
  for (const Form* form : kForms) {
    if (may_take(form->isa, name)) return form;
  }
  return nullptr;
}

void multiply(ffi::ThreadPool& pool, const Form& form, const Operands& p) {
  const int64_t rows = p.batch * p.m, padded = round_up(p.k, form.block[p.codes]);
  const std::unique_ptr<float[]> lhs(new float[rows * padded]);
  parallel_for(pool, rows, threads_for(pool, rows * padded, kGrain),
               [&](int64_t row) { form.order_row[p.codes](p, row, lhs.get()); });

  const int64_t across = ceil_div(p.n, kWidth), down = ceil_div(p.m, kRows);
  const int64_t threads = threads_for(pool, rows * p.n * p.k, kGrain);
  parallel_for(pool, p.batch * down * across, threads, [&](int64_t i) {
    const int64_t row = i / across % down * kRows, column = i % across * kWidth;
    const Block block{i / across / down, row, std::min(kRows, p.m - row), column,
                      std::min(kWidth, p.n - column)};
    form.multiply[p.codes](p, lhs.get(), block);
  });
}

Codes codes_named(std::string_view name) {
  constexpr std::string_view kNames[] = {"int8", "4 bits", "3 bits", "2 bits"};
  return static_cast<Codes>(std::find(std::begin(kNames), std::end(kNames), name) - kNames);
}

using Lhs = ffi::BufferR3<ffi::F32>;
using Scales = ffi::BufferR4<ffi::F32>;

// The product with a layer of the stack.
Operands operands(const Lhs& lhs, const ffi::AnyBuffer& rhs, const Scales& rhs_scale, int64_t layer,
                  float* out, int64_t group, Codes codes, ffi::Span<const float> table,
                  ffi::Span<const int32_t> minifloat) {
  const auto left = lhs.dimensions(), right = rhs.dimensions(), scales = rhs_scale.dimensions();
  const int64_t rows = layer * right[1] * right[2];  // of the layers before
  Operands p{left[0], left[1], right[2], left[2], group, scales[3], codes};
  p.table = table.begin();
  if (minifloat.size() == 4) p.minifloat = {minifloat[0], minifloat[1], minifloat[2], minifloat[3]};
  p.lhs = lhs.typed_data();
  p.rhs = static_cast<const uint8_t*>(rhs.untyped_data()) + rows * p.row_bytes();
  p.rhs_scale = rhs_scale.typed_data() + rows * p.groups;
  p.out = out;
  return p;
}

ffi::Error floating(ffi::ThreadPool pool, Lhs lhs, ffi::AnyBuffer rhs, Scales rhs_scale,
                    ffi::BufferR0<ffi::S32> index, ffi::Result<Lhs> out, int64_t group,
                    std::string_view codes, ffi::Span<const float> table,
                    ffi::Span<const int32_t> minifloat, std::string_view isa) {
  const Form* form = form_for(isa);
  if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
  const int64_t layer = std::clamp<int64_t>(*index.typed_data(), 0, rhs.dimensions()[0] - 1);
  multiply(pool, *form,
           operands(lhs, rhs, rhs_scale, layer, out->typed_data(), group, codes_named(codes), table,
                    minifloat));
  return ffi::Error::Success();
}

// Rows of a mixture of experts: those of each are consecutive, and meet its layer of the stack. The
// rows after those of all experts are zero.
ffi::Error ragged(ffi::ThreadPool pool, Lhs lhs, ffi::AnyBuffer rhs, Scales rhs_scale,
                  ffi::BufferR1<ffi::S32> rows, ffi::Result<Lhs> out, int64_t group,
                  std::string_view codes, ffi::Span<const float> table,
                  ffi::Span<const int32_t> minifloat, std::string_view isa) {
  const Form* form = form_for(isa);
  if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
  const int64_t all = lhs.dimensions()[1], n = rhs.dimensions()[2];
  int64_t done = 0;
  for (int64_t expert = 0; expert < rhs.dimensions()[0]; ++expert) {
    float* const result = out->typed_data() + done * n;
    Operands p = operands(lhs, rhs, rhs_scale, expert, result, group, codes_named(codes), table,
                          minifloat);
    p.m = std::clamp<int64_t>(rows.typed_data()[expert], 0, all - done);
    if (p.m * n == 0) continue;
    p.lhs += done * p.k;
    multiply(pool, *form, p);
    done += p.m;
  }
  std::fill(out->typed_data() + done * n, out->typed_data() + all * n, 0.0f);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace qpass::floating

XLA_FFI_DEFINE_HANDLER_SYMBOL(QpassFloating, qpass::floating::floating,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<qpass::floating::Lhs>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<qpass::floating::Scales>()
                                  .Arg<xla::ffi::BufferR0<xla::ffi::S32>>()
                                  .Ret<qpass::floating::Lhs>()
                                  .Attr<int64_t>("group")
                                  .Attr<std::string_view>("codes")
                                  .Attr<xla::ffi::Span<const float>>("table")
                                  .Attr<xla::ffi::Span<const int32_t>>("minifloat")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(QpassRaggedFloating, qpass::floating::ragged,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<qpass::floating::Lhs>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<qpass::floating::Scales>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::S32>>()
                                  .Ret<qpass::floating::Lhs>()
                                  .Attr<int64_t>("group")
                                  .Attr<std::string_view>("codes")
                                  .Attr<xla::ffi::Span<const float>>("table")
                                  .Attr<xla::ffi::Span<const int32_t>>("minifloat")
                                  .Attr<std::string_view>("isa"));
