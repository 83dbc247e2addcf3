#include <atomic>
#include <cstdlib>

#include "kernels.hpp"
#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr SimdLevel kLevels[] = {SimdLevel::scalar, SimdLevel::sse4, SimdLevel::avx2, SimdLevel::avx512,
                                 SimdLevel::neon};

bool is_available(SimdLevel level) {
  switch (level) {
    case SimdLevel::scalar: return true;
#if TRAJMILL_X86
    case SimdLevel::sse4: return __builtin_cpu_supports("sse4.1");
    case SimdLevel::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    case SimdLevel::avx512: return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("bmi2");
#endif
#if TRAJMILL_NEON
    case SimdLevel::neon: return true;  // part of every 64-bit Arm processor
#endif
    default: return false;
  }
}

void require_available(SimdLevel level) {
  if (is_available(level)) return;
  std::string names;
  for (const SimdLevel available : available_simd_levels())
    names += message(names.empty() ? "" : ", ", name(available));
  throw std::invalid_argument(
      message("SIMD level '", name(level), "' is not available on this machine; available: ", names));
}

SimdLevel initial_level() {
  const char* wanted = std::getenv("TRAJMILL_SIMD");
  if (wanted == nullptr || *wanted == '\0') return available_simd_levels().back();
  const SimdLevel level = simd_level_from_name("TRAJMILL_SIMD", wanted);
  require_available(level);
  return level;
}

std::atomic<SimdLevel>& current_level() {
  static std::atomic<SimdLevel> level = initial_level();
  return level;
}

}  // namespace

std::string_view name(SimdLevel level) noexcept {
  switch (level) {
    case SimdLevel::sse4: return "sse4";
    case SimdLevel::avx2: return "avx2";
    case SimdLevel::avx512: return "avx512";
    case SimdLevel::neon: return "neon";
    default: return "scalar";
  }
}

SimdLevel simd_level_from_name(std::string_view what, std::string_view wanted) {
  for (const SimdLevel level : kLevels) {
    if (name(level) == wanted) return level;
  }
  throw std::invalid_argument(message(what, " must be scalar, sse4, avx2, avx512 or neon, got '", wanted, "'"));
}

std::vector<SimdLevel> available_simd_levels() {
  std::vector<SimdLevel> levels;
  for (const SimdLevel level : kLevels) {
    if (is_available(level)) levels.push_back(level);
  }
  return levels;
}

SimdLevel simd_level() { return current_level(); }

void set_simd_level(SimdLevel level) {
  require_available(level);
  current_level() = level;
}

simd::Kernels simd::kernels() {
  switch (simd_level()) {
#if TRAJMILL_X86
    case SimdLevel::avx512: return avx512_kernels();
    case SimdLevel::avx2: return avx2_kernels();
    case SimdLevel::sse4: return sse4_kernels();
#endif
#if TRAJMILL_NEON
    case SimdLevel::neon: return neon_kernels();
#endif
    default: return scalar_kernels();
  }
}

std::uint32_t philox_checksum(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count) {
  return simd::kernels().philox_checksum(key, sequence_count, block_count);
}

std::uint32_t lookup_checksum(std::span<const std::uint32_t> table, std::size_t lookup_count) {
  return simd::kernels().lookup_checksum(table.data(), static_cast<std::uint32_t>(table.size()), lookup_count);
}

}  // namespace trajmill
