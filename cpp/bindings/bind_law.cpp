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

using Probabilities = py::array_t<double, py::array::c_style>;

// The cells of alias tables (alias_table.hpp): one row for each row of probabilities.
Words alias_cells(const Probabilities& rows, std::size_t memory_limit) {
  require(rows.ndim() == 2, "probabilities must have two dimensions, got ", rows.ndim());
  const auto row_count = static_cast<std::size_t>(rows.shape(0)), columns = static_cast<std::size_t>(rows.shape(1));
  require(columns <= 0xFFFFFFFF, "a table has less than 2^32 columns, got ", columns);
  const double* const from = rows.data();
  const AliasTable table(row_count, static_cast<std::uint32_t>(columns), memory_limit, {},
                         [&](std::uint64_t row, std::span<double> into) {
                           const double* const first = from + row * columns;
                           std::copy(first, first + columns, into.begin());
                         });
  const auto words = static_cast<py::ssize_t>(table.byte_count() / sizeof(std::uint32_t) / row_count);
  Words cells({rows.shape(0), words});
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
  module.def("alias_cells", &alias_cells, py::arg("rows"), py::kw_only(), py::arg("memory_limit"),
             "Alias tables of rows of probabilities: a word a column up to 256 columns, else two.");
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
