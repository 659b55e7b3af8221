// The handler QpassQuantizeRows: see rows.h.
#include "rows.h"

#include <string_view>

#include "forms.h"
#include "sizes.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace qpass::rows {
namespace {

namespace ffi = xla::ffi;

// Numbers that take about as long as waking a thread, and those of a task.
constexpr int64_t kGrain = 1 << 17, kTask = 1 << 13;

// The same loops, for whose vectors the compiler may use other instructions.
struct Form {
  Isa isa;
  void (*quantize)(const Operands&, int64_t row);
};

#if defined(__x86_64__)
__attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl"))) void with_avx512(
    const Operands& p, int64_t row) {
  quantize_row(p, row);
}

__attribute__((target("avx2"))) void with_avx2(const Operands& p, int64_t row) {
  quantize_row(p, row);
}
#endif

void portable(const Operands& p, int64_t row) { quantize_row(p, row); }

constexpr Form kForms[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, with_avx512},
    {Isa::kAvx2, with_avx2},
#endif
    {Isa::kPortable, portable},
};

const Form* form_for(std::string_view name) {
  for (const Form& form : kForms) {
    if (may_take(form.isa, name)) return &form;
  }
  return nullptr;
}

void quantize(ffi::ThreadPool& pool, const Form& form, const Operands& p) {
  const int64_t each = std::max<int64_t>(1, kTask / p.k), tasks = ceil_div(p.rows, each);
  parallel_for(pool, tasks, threads_for(pool, p.rows * p.k, kGrain), [&](int64_t task) {
    const int64_t end = std::min((task + 1) * each, p.rows);
    for (int64_t row = task * each; row < end; ++row) form.quantize(p, row);
  });
}

using Floats = ffi::BufferR2<ffi::F32>;

ffi::Error quantize_rows(ffi::ThreadPool pool, Floats x, ffi::Result<ffi::BufferR2<ffi::S8>> codes,
                         ffi::Result<Floats> scales, int64_t group, float most,
                         std::string_view isa) {
  const Form* form = form_for(isa);
  if (form == nullptr) return ffi::Error::InvalidArgument("this machine lacks the instructions");
  const auto sizes = x.dimensions();
  quantize(pool, *form,
           {sizes[0], sizes[1], group, scales->dimensions()[1], most, x.typed_data(),
            codes->typed_data(), scales->typed_data()});
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(QpassQuantizeRows, quantize_rows,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<ffi::BufferR2<ffi::S8>>()
                                  .Ret<Floats>()
                                  .Attr<int64_t>("group")
                                  .Attr<float>("most")
                                  .Attr<std::string_view>("isa"));

}  // namespace qpass::rows
