#include "trajmill/law.hpp"

#include <algorithm>
#include <iterator>
#include <memory>
#include <new>

#include "chain_common.hpp"
#include "law_kinds.inc"
#include "simd/law_kernel.hpp"
#include "trajmill/error.hpp"
#include "trajmill/simd.hpp"

namespace trajmill {
namespace simd {

#define TRAJMILL_DECLARE(kind)               \
  LawKernel kind##_kernel_scalar() noexcept; \
  LawKernel kind##_kernel_sse4() noexcept;   \
  LawKernel kind##_kernel_avx2() noexcept;   \
  LawKernel kind##_kernel_avx512() noexcept; \
  LawKernel kind##_kernel_neon() noexcept;
TRAJMILL_LAWS(TRAJMILL_DECLARE)
#undef TRAJMILL_DECLARE

}  // namespace simd

namespace {

struct Kind {
  std::string_view name;
  void (*check)(const simd::LawView&);
  simd::LawKernel (*kernel)(SimdLevel);
};

#if TRAJMILL_X86
#define TRAJMILL_VECTOR_KERNELS(kind)                          \
  case SimdLevel::avx512: return simd::kind##_kernel_avx512(); \
  case SimdLevel::avx2: return simd::kind##_kernel_avx2();     \
  case SimdLevel::sse4: return simd::kind##_kernel_sse4();
#elif TRAJMILL_NEON
#define TRAJMILL_VECTOR_KERNELS(kind) \
  case SimdLevel::neon: return simd::kind##_kernel_neon();
#else
#define TRAJMILL_VECTOR_KERNELS(kind)
#endif

#define TRAJMILL_KIND(kind)                          \
  {#kind, laws::kind::check, [](SimdLevel level) {   \
     switch (level) {                                \
       TRAJMILL_VECTOR_KERNELS(kind)                 \
       default: return simd::kind##_kernel_scalar(); \
     }                                               \
   }},
constexpr Kind kKinds[] = {TRAJMILL_LAWS(TRAJMILL_KIND)};
#undef TRAJMILL_KIND
#undef TRAJMILL_VECTOR_KERNELS

std::size_t find_kind(std::string_view kind) {
  const auto* const found = std::ranges::find(kKinds, kind, &Kind::name);
  require(found != std::end(kKinds), "there is no kernel for a law of kind '", kind, "'");
  return static_cast<std::size_t>(found - std::begin(kKinds));
}

struct Aligned {
  static constexpr std::align_val_t kAlignment{64};
  void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
};

}  // namespace

std::vector<std::string_view> law_kinds() {
  std::vector<std::string_view> names;
  for (const Kind& kind : kKinds) names.push_back(kind.name);
  return names;
}

namespace {

// The tables as kernels see them.
std::vector<simd::LawTable> views(const std::vector<std::vector<std::uint32_t>>& tables) {
  std::vector<simd::LawTable> result;
  for (const auto& table : tables) result.push_back({table.data(), table.size()});
  return result;
}

}  // namespace

Law::Law(std::string_view kind, std::vector<std::uint64_t> numbers, std::vector<std::vector<std::uint32_t>> tables)
    : kind_(find_kind(kind)), numbers_(std::move(numbers)), tables_(std::move(tables)) {
  const std::vector<simd::LawTable> seen = views(tables_);
  kKinds[kind_].check({numbers_.data(), numbers_.size(), seen.data(), seen.size()});
}

void Law::draw(const Sequences& sequences, const LawColumns& columns, const RunOptions& options) const {
  const std::vector<simd::LawTable> seen = views(tables_);
  const std::size_t count = columns.tokens.row_count, length = columns.tokens.column_count;
  require_addressable(sequences, count, length, "sequence");
  std::atomic<const char*> failure{nullptr};
  simd::LawArguments arguments{
      .law = {numbers_.data(), numbers_.size(), seen.data(), seen.size()},
      .sequences = sequences,
      .length = length,
      .columns = {},
      .failure = &failure,
  };
  const auto place = [&](simd::LawColumn column, const std::optional<Rows>& rows, const char* name,
                         std::size_t row_length) {
    if (!rows) return;
    require(rows->row_count == count && rows->column_count == row_length, name, " must have the shape (", count, ", ",
            row_length, "), got (", rows->row_count, ", ", rows->column_count, ")");
    arguments.columns[column] = simd::view(*rows);
  };
  place(simd::kTokens, columns.tokens, "tokens", length);
  place(simd::kLossMask, columns.loss_mask, "loss_mask", length);
  place(simd::kTask, columns.task, "task", 1);
  place(simd::kStates, columns.states, "states", length);
  if (count == 0) return;
  const simd::LawKernel kernel = kKinds[kind_].kernel(simd_level());
  const std::size_t scratch_bytes = kernel.scratch_bytes(arguments);
  parallel_for(count, row_grain(count, length, options.thread_count), options,
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
                 const std::unique_ptr<std::byte, Aligned> scratch(
                     static_cast<std::byte*>(::operator new(scratch_bytes, Aligned::kAlignment)));
                 kernel.draw(arguments, begin, end, scratch.get(), cancelled);
               });
  if (const char* const reason = failure.load()) throw std::invalid_argument(reason);
}

}  // namespace trajmill
