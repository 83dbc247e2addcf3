// Columns and batches across the language border: a batch is a dict of arrays under the columns' names.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "bindings.hpp"
#include "trajmill/batch_source.hpp"

namespace trajmill {

// A column from its name, row shape and NumPy dtype; throws py::type_error for a dtype that has no place in a batch.
Column column_of(const std::string& name, const std::vector<std::size_t>& shape, const pybind11::dtype& dtype);

// The dtype of NumPy itself, not a copy: most arrays of that type have this very object.
const pybind11::dtype& dtype_of(DataType type);

// Of a column's array in a batch: (batch_size, ...).
std::vector<pybind11::ssize_t> batch_shape(const Column& column, std::size_t batch_size);

// The arrays of a batch, and where each column goes. The memory stays where it is for as long as this lives.
struct Batch {
  pybind11::dict arrays;
  std::vector<Pinned> pins;
  std::vector<std::byte*> pointers;
};

// A batch for `batch_size` rows: `out` itself once its arrays fit and share no memory, or fresh arrays where it is
// None.
Batch batch_for(std::span<const Column> columns, std::size_t batch_size, const pybind11::object& out);

// A value as an array; throws py::type_error where it is none.
pybind11::array as_array(const pybind11::object& value, const std::string& what);

// A value as an array of the column's dtype, C-contiguous and aligned: floats are rounded to floats, integers and
// booleans become anything that holds every one of them. All else is a py::type_error, which calls the value what():
// floats for integers, finite numbers that become infinite, masked values.
pybind11::array converted(const pybind11::object& value, const Column& column,
                          const std::function<std::string()>& what);

// Whether a key of a dict is this name.
[[nodiscard]] bool is_named(const pybind11::handle& key, std::string_view name) noexcept;

// The value under a name in a dict, borrowed, or null. The next item from `place` on is tried first: asking for all
// names in the dict's order makes no string.
PyObject* find_item(const pybind11::handle& dict, const std::string& name, Py_ssize_t& place);

// In a worker of a torch DataLoader, a source draws for this worker from its first draw on.
void join_workers(BatchSource& source);

// Whether an array is C-contiguous, aligned and of a column's dtype, and its last axes have the column's row shape.
bool holds_rows(const pybind11::array& array, const Column& column);

// The columns as Python sees them: name, row shape and dtype of each.
pybind11::list describe(std::span<const Column> columns);

}  // namespace trajmill
