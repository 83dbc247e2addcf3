// Columns and batches across the language border: a batch is a dict of arrays under the columns' names.
#pragma once

#include <span>

#include "bindings.hpp"
#include "trajmill/batch_source.hpp"

namespace trajmill {

// A column from its name, row shape and NumPy dtype; throws py::type_error for a dtype that has no place in a batch.
Column column_of(const std::string& name, const std::vector<std::size_t>& shape, const pybind11::dtype& dtype);

// The dtype of NumPy itself, not a copy: most arrays of that type have this very object.
const pybind11::dtype& dtype_of(DataType type);

// Of a column's array in a batch: (batch_size, ...).
std::vector<pybind11::ssize_t> batch_shape(const Column& column, std::size_t batch_size);

// A batch for `batch_size` rows: `out` itself once its arrays fit, or fresh arrays where it is None. `pointers`
// receives where each column goes.
pybind11::dict batch_for(std::span<const Column> columns, std::size_t batch_size, const pybind11::object& out,
                         std::vector<std::byte*>& pointers);

// Whether an array is C-contiguous, aligned and of a column's dtype, and its last axes have the column's row shape.
bool holds_rows(const pybind11::array& array, const Column& column);

// The columns as Python sees them: name, row shape and dtype of each.
pybind11::list describe(std::span<const Column> columns);

}  // namespace trajmill
