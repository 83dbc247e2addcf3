#include <pybind11/stl.h>

#include <algorithm>
#include <list>

#include "bindings.hpp"
#include "trajmill/alias_table.hpp"
#include "trajmill/law.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Words = py::array_t<std::uint32_t, py::array::c_style>;

Law make_law(const std::string& kind, const std::vector<std::uint64_t>& numbers, const std::vector<Words>& tables) {
  std::vector<std::vector<std::uint32_t>> words;
  for (const Words& table : tables) words.push_back(copied(table));
  return {kind, numbers, std::move(words)};
}

// The alias table of one law, as words.
Words alias_cells(const py::array_t<double, py::array::c_style>& probabilities) {
  const std::vector<double> law = copied(probabilities);
  require(law.size() <= AliasTable::kCellLimit, "a law may have up to ", AliasTable::kCellLimit, " values, got ",
          law.size());
  const AliasTable table(1, static_cast<std::uint32_t>(law.size()), std::size_t{1} << 40, {.thread_count = 1},
                         [&](std::uint64_t, std::span<double> out) { std::ranges::copy(law, out.begin()); });
  Words cells(static_cast<py::ssize_t>(table.byte_count() / sizeof(std::uint32_t)));
  std::copy_n(table.cells(), cells.size(), cells.mutable_data());
  return cells;
}

// The caller's arrays as columns to fill, None for those that are not wanted.
class FilledColumns {
 public:
  FilledColumns(const py::array& tokens, const py::object& loss_mask, const py::object& task, const py::object& states)
      : columns_{fill(tokens), optional(loss_mask), optional(task), optional(states)} {}

  [[nodiscard]] const LawColumns& columns() const noexcept { return columns_; }

 private:
  Rows fill(const py::array& out) { return filled_.emplace_back(out).rows; }
  std::optional<Rows> optional(const py::object& out) {
    if (out.is_none()) return std::nullopt;
    return fill(py::cast<py::array>(out));
  }

  std::list<Filled> filled_;  // before what is made of it
  LawColumns columns_;
};

}  // namespace

void bind_law(py::module_& module) {
  module.def("law_kinds", [] { return law_kinds(); }, "Kinds of laws that have a kernel.");
  module.def(
      "alias_cells", &alias_cells, py::arg("probabilities"),
      "The alias table of one law: a word a value, threshold << 8 | alias, of up to 256 values; else two words.");
  py::class_<Law>(module, "Law", "A law of token sequences as its kernel sees it: numbers and tables of words.")
      .def(py::init(&make_law), py::arg("kind"), py::kw_only(), py::arg("numbers"), py::arg("tables"))
      .def(
          "fill",
          [](const Law& law, std::uint64_t first_sequence, const py::array& tokens, const py::object& loss_mask,
             const py::object& task, const py::object& states, std::size_t threads) {
            const FilledColumns filled(tokens, loss_mask, task, states);
            run_released(threads,
                         [&](const RunOptions& options) { law.draw({first_sequence}, filled.columns(), options); });
          },
          py::kw_only(), py::arg("first_sequence"), py::arg("tokens"), py::arg("loss_mask") = py::none(),
          py::arg("task") = py::none(), py::arg("states") = py::none(), py::arg("threads"),
          "Fill the columns [sequences, length], task [sequences, 1], with the sequences from first_sequence on.")
      .def(
          "pick",
          [](const Law& law, const Indexes& indexes, const py::array& tokens, const py::object& loss_mask,
             const py::object& task, const py::object& states, std::size_t threads) {
            const FilledColumns filled(tokens, loss_mask, task, states);
            const std::vector<std::uint64_t> numbers = copied(indexes);
            const Sequences sequences = sequences_of(numbers, filled.columns().tokens);
            run_released(threads, [&](const RunOptions& options) { law.draw(sequences, filled.columns(), options); });
          },
          py::kw_only(), py::arg("indexes"), py::arg("tokens"), py::arg("loss_mask") = py::none(),
          py::arg("task") = py::none(), py::arg("states") = py::none(), py::arg("threads"),
          "Fill row k of the columns with the sequence of number indexes[k].");
}

}  // namespace trajmill
