// The handler QpassFloating: floats by codes with scales, added up in float32. One call multiplies
// one left operand by several right ones, each with its own columns and result.
#include "floating.h"

#include <iterator>
#include <memory>
#include <string_view>
#include <vector>

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

int64_t blocks_of(const Operands& p) {
  return p.batch * ceil_div(p.m, kRows) * ceil_div(p.n, kWidth);
}

void multiply_block(const Form& form, const Operands& p, const float* lhs, int64_t i) {
  const int64_t across = ceil_div(p.n, kWidth), down = ceil_div(p.m, kRows);
  const int64_t row = i / across % down * kRows, column = i % across * kWidth;
  form.multiply[p.codes](p, lhs,
                         {i / across / down, row, std::min(kRows, p.m - row), column,
                          std::min(kWidth, p.n - column)});
}

// Products of one left operand, which is ordered once; threads take blocks of all of them.
void multiply(ffi::ThreadPool& pool, const Form& form, const Operands* parts, int64_t count) {
  const Operands& p = parts[0];
  const int64_t rows = p.batch * p.m, padded = round_up(p.k, form.block[p.codes]);
  const std::unique_ptr<float[]> lhs(new float[rows * padded]);
  parallel_for(pool, rows, threads_for(pool, rows * padded, kGrain),
               [&](int64_t row) { form.order_row[p.codes](p, row, lhs.get()); });

  int64_t blocks = 0, columns = 0;
  for (int64_t i = 0; i < count; ++i) {
    blocks += blocks_of(parts[i]);
    columns += parts[i].n;
  }
  parallel_for(pool, blocks, threads_for(pool, rows * columns * p.k, kGrain), [&](int64_t i) {
    const Operands* part = parts;
    for (int64_t own = blocks_of(*part); i >= own; own = blocks_of(*part)) {
      i -= own;
      ++part;
    }
    multiply_block(form, *part, lhs.get(), i);
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

ffi::Error floating(ffi::ThreadPool pool, Lhs lhs, ffi::RemainingArgs rest, ffi::RemainingRets outs,
                    int64_t group, std::string_view codes, ffi::Span<const float> table,
                    ffi::Span<const int32_t> minifloat, std::string_view isa) {
  const Form* form = form_for(isa);
  if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
  std::vector<Operands> parts;
  for (size_t i = 0; i < outs.size(); ++i) {
    const auto rhs = rest.get<ffi::AnyBuffer>(3 * i);
    const auto scale = rest.get<Scales>(3 * i + 1);
    const auto index = rest.get<ffi::BufferR0<ffi::S32>>(3 * i + 2);
    const auto out = outs.get<Lhs>(i);
    if (!rhs || !scale || !index || !out) {
      return ffi::Error::InvalidArgument("codes, scales and an index for each");
    }
    const int64_t layer = std::clamp<int64_t>(*index->typed_data(), 0, rhs->dimensions()[0] - 1);
    parts.push_back(operands(lhs, *rhs, *scale, layer, (*out)->typed_data(), group,
                             codes_named(codes), table, minifloat));
  }
  multiply(pool, *form, parts.data(), parts.size());
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
    multiply(pool, *form, &p, 1);
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
                                  .RemainingArgs()
                                  .RemainingRets()
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
