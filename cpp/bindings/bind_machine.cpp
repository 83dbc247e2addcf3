#include <pybind11/stl.h>

#include <span>

#include "bindings.hpp"
#include "trajmill/error.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/simd.hpp"
#include "trajmill/training_words.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Words = py::array_t<std::int64_t, py::array::c_style>;

std::span<const std::int64_t> span_of(const Words& words) {
  return {words.data(), static_cast<std::size_t>(words.size())};
}

}  // namespace

void bind_machine(py::module_& module) {
  module.attr("version") = TRAJMILL_VERSION;
  module.attr("compiler") = TRAJMILL_COMPILER;
  module.def(
      "philox4x32", [](const PhiloxBlock& counter, std::uint64_t key) { return philox4x32(counter, key); },
      py::arg("counter"), py::arg("key"), "The Philox4x32-10 block at a counter of four words under a 64-bit key.");
  module.def(
      "philox_words",
      [](const Words& seeds, const Words& lanes, const Words& sites, std::uint64_t first_step, std::size_t step_count,
         std::uint32_t domain) {
        require(sites.size() == lanes.size(), "there must be one site for each lane");
        require(step_count < std::size_t{1} << 40, "there must be fewer than 2^40 steps, got ", step_count);
        py::array_t<std::int64_t> words(
            {static_cast<py::ssize_t>(step_count), seeds.size(), lanes.size(), py::ssize_t{4}});
        std::int64_t* const out = words.mutable_data();
        const Pinned pins[] = {Pinned(seeds), Pinned(lanes), Pinned(sites)};
        released(
            [&] { philox_words(span_of(seeds), span_of(lanes), span_of(sites), first_step, step_count, domain, out); });
        return words;
      },
      py::arg("seeds"), py::arg("lanes"), py::arg("sites"), py::arg("first_step"), py::arg("step_count"),
      py::arg("domain"),
      "Words of the blocks at (lane, step, site, domain) under each seed: (steps, seeds, lanes, 4).");
  module.def("simd_level", [] { return std::string(name(simd_level())); }, "The instruction set in use.");
  module.def(
      "available_simd_levels",
      [] {
        std::vector<std::string> names;
        for (const SimdLevel level : available_simd_levels()) names.emplace_back(name(level));
        return names;
      },
      "The instruction sets that this build holds and this machine runs, slowest first.");
  module.def(
      "set_simd_level", [](const std::string& level) { set_simd_level(simd_level_from_name("SIMD level", level)); },
      py::arg("level"), "Choose the instruction set; the bytes made do not depend on it.");
  module.def("philox_checksum", &philox_checksum, py::arg("key"), py::arg("sequence_count"), py::arg("block_count"),
             py::call_guard<py::gil_scoped_release>(),
             "The exclusive or of the words of each sequence's first Philox blocks: what the generator alone costs.");
  module.def(
      "lookup_checksum",
      [](const py::array_t<std::uint32_t, py::array::c_style>& table, std::size_t lookup_count) {
        const std::span<const std::uint32_t> cells(table.data(), static_cast<std::size_t>(table.size()));
        require(!cells.empty(), "table must have a word at least");
        const Pinned pin(table);
        std::uint32_t sum = 0;
        released([&] { sum = lookup_checksum(cells, lookup_count); });
        return sum;
      },
      py::arg("table"), py::arg("lookup_count"),
      "The sum of about `lookup_count` look-ups in a table: what look-ups alone cost.");
}

}  // namespace trajmill
