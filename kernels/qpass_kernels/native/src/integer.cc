// The handler QpassInteger: integer codes by integer codes, exact in int32 within a group. One call
// multiplies one left operand by several right ones, each with its own columns and result.
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "forms.h"
#include "integer.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace qpass {
namespace {

namespace ffi = xla::ffi;

// Fastest first.
const Form* const kForms[] = {
#if defined(__x86_64__)
    &kVnniFew, &kVnniInteger, &kAvx2Few, &kAvx2Integer,
#elif defined(__aarch64__)
    &kNeonDotInteger, &kNeonInteger,
#endif
    &kPortableInteger,
};

// Rows of a block: so many that packing the weight is small beside the product.
constexpr int64_t kRows = 128;
// Products of codes that take about as long as waking a thread.
constexpr int64_t kGrain = 1 << 19;

// The first form that takes the product and that the machine has; of that name where it is not
// empty.
const Form* form_for(const Operands& p, std::string_view name) {
  for (const Form* form : kForms) {
    if (may_take(form->isa, name) && form->takes(p)) return form;
  }
  return nullptr;
}

int64_t blocks_across(const Form& form, const Operands& p) { return ceil_div(p.n, form.columns); }

int64_t blocks_of(const Form& form, const Operands& p) {
  return p.batch * ceil_div(p.m, kRows) * blocks_across(form, p);
}

void multiply_block(const Form& form, const Operands& p, const Packed& packed, int64_t i) {
  const int64_t across = blocks_across(form, p), down = ceil_div(p.m, kRows);
  const int64_t row = i / across % down * kRows;
  form.multiply(p, packed,
                {i / across / down, row, std::min(kRows, p.m - row), i % across * form.columns});
}

// Products of one left operand, which is packed once; threads take blocks of all of them.
void multiply(ffi::ThreadPool& pool, const Form& form, const Operands* parts, int64_t count) {
  const Operands& p = parts[0];
  const int64_t rows = p.batch * p.m, row_codes = form.row_codes(p);
  std::unique_ptr<char[]> codes(new char[rows * row_codes * form.code_bytes]);
  std::unique_ptr<int32_t[]> starts(new int32_t[rows * ceil_div(p.k, p.group)]);
  const Packed packed{codes.get(), starts.get()};
  parallel_for(pool, rows, threads_for(pool, rows * row_codes, kGrain),
               [&](int64_t row) { form.pack_row(p, row, packed); });

  int64_t blocks = 0, columns = 0;
  for (int64_t i = 0; i < count; ++i) {
    blocks += blocks_of(form, parts[i]);
    columns += parts[i].n;
  }
  const int64_t work = columns * row_codes * rows;
  parallel_for(pool, blocks, threads_for(pool, work, kGrain), [&](int64_t i) {
    const Operands* part = parts;
    for (int64_t own = blocks_of(form, *part); i >= own; own = blocks_of(form, *part)) {
      i -= own;
      ++part;
    }
    multiply_block(form, *part, packed, i);
  });
}

std::optional<Float> float_type(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32: return Float::kFloat32;
    case ffi::DataType::BF16: return Float::kBfloat16;
    case ffi::DataType::F16: return Float::kFloat16;
    default: return std::nullopt;
  }
}

using Codes = ffi::BufferR3<ffi::S8>;
using Scales = ffi::BufferR3<ffi::F32>;
using StackScales = ffi::BufferR4<ffi::F32>;
using Scalar = ffi::BufferR0<ffi::S32>;

// The product with a layer of the stack, or none where the stack holds no integer codes.
std::optional<Operands> operands(const Codes& lhs, const Scales& lhs_scale,
                                 const ffi::AnyBuffer& stack, const StackScales& stack_scale,
                                 int64_t layer, int64_t group) {
  const bool four = stack.element_type() == ffi::DataType::S4;
  const auto left = lhs.dimensions(), right = stack.dimensions();
  if ((!four && stack.element_type() != ffi::DataType::S8) || right.size() != 4) return {};
  Operands p{};
  p.batch = left[0], p.m = left[1], p.n = right[2], p.k = left[2];
  p.group = group, p.bits = four ? 4 : 8;
  p.lhs_groups = lhs_scale.dimensions()[2], p.rhs_groups = stack_scale.dimensions()[3];
  p.lhs = lhs.typed_data(), p.lhs_scale = lhs_scale.typed_data();
  layer = std::clamp<int64_t>(layer, 0, right[0] - 1);
  p.rhs = static_cast<const uint8_t*>(stack.untyped_data()) +
          layer * p.batch * p.n * p.k * p.bits / 8;
  p.rhs_scale = stack_scale.typed_data() + layer * p.batch * p.n * p.rhs_groups;
  return p;
}

// The operands of part `i` of a call: three beside the left one, and a result.
ffi::ErrorOr<Operands> part_of(const Codes& lhs, const Scales& lhs_scale, ffi::RemainingArgs rest,
                               ffi::RemainingRets outs, int64_t i, int64_t group) {
  const auto invalid = [](const char* why) {
    return ffi::Unexpected(ffi::Error::InvalidArgument(why));
  };
  const auto stack = rest.get<ffi::AnyBuffer>(3 * i);
  const auto scale = rest.get<StackScales>(3 * i + 1);
  const auto index = rest.get<Scalar>(3 * i + 2);
  const auto out = outs.get<ffi::AnyBuffer>(i);
  if (!stack || !scale || !index || !out) return invalid("codes, scales and an index for each");
  auto p = operands(lhs, lhs_scale, *stack, *scale, *index->typed_data(), group);
  const auto type = float_type((*out)->element_type());
  if (!p) return invalid("the right operand is a stack of int8 or int4");
  if (!type) return invalid("results are float32, bfloat16 or float16");
  p->out = (*out)->untyped_data(), p->type = *type;
  return *p;
}

ffi::Error integer(ffi::ThreadPool pool, Codes lhs, Scales lhs_scale, ffi::RemainingArgs rest,
                   ffi::RemainingRets outs, int64_t group, std::string_view isa) {
  std::vector<Operands> parts;
  for (size_t i = 0; i < outs.size(); ++i) {
    const auto p = part_of(lhs, lhs_scale, rest, outs, i, group);
    if (!p) return p.error();
    if (p->bits != (parts.empty() ? *p : parts[0]).bits) {
      return ffi::Error::InvalidArgument("codes of several products are of one type");
    }
    if (p->batch * p->m * p->n > 0) parts.push_back(*p);
  }
  if (parts.empty()) return ffi::Error::Success();
  const Form* form = form_for(parts[0], isa);
  if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
  multiply(pool, *form, parts.data(), parts.size());
  return ffi::Error::Success();
}

// Rows of a mixture of experts: those of each are consecutive, and meet its layer of the stack. The
// rows after those of all experts are zero.
ffi::Error ragged(ffi::ThreadPool pool, Codes lhs, Scales lhs_scale, ffi::AnyBuffer stack,
                  StackScales stack_scale, ffi::BufferR1<ffi::S32> rows,
                  ffi::Result<ffi::AnyBuffer> out, int64_t group, std::string_view isa) {
  const auto type = float_type(out->element_type());
  if (!type) return ffi::Error::InvalidArgument("results are float32, bfloat16 or float16");
  const int64_t n = stack.dimensions()[2], width = n * (*type == Float::kFloat32 ? 4 : 2);
  const int64_t all = lhs.dimensions()[1];
  char* const result = static_cast<char*>(out->untyped_data());
  int64_t done = 0;
  for (int64_t expert = 0; expert < stack.dimensions()[0]; ++expert) {
    auto p = operands(lhs, lhs_scale, stack, stack_scale, expert, group);
    if (!p) return ffi::Error::InvalidArgument("the right operand is a stack of int8 or int4");
    p->m = std::clamp<int64_t>(rows.typed_data()[expert], 0, all - done);
    if (p->m * n == 0) continue;
    p->lhs += done * p->k, p->lhs_scale += done * p->lhs_groups;
    p->out = result + done * width, p->type = *type;
    const Form* form = form_for(*p, isa);
    if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
    multiply(pool, *form, &*p, 1);
    done += p->m;
  }
  std::memset(result + done * width, 0, (all - done) * width);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(QpassInteger, integer,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Codes>()
                                  .Arg<Scales>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("group")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(QpassRaggedInteger, ragged,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Codes>()
                                  .Arg<Scales>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<StackScales>()
                                  .Arg<ffi::BufferR1<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("group")
                                  .Attr<std::string_view>("isa"));

}  // namespace qpass
