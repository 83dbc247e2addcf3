// Columns and batches across the language border: a batch is a dict of arrays under the columns' names.
#pragma once

#include "bindings.hpp"
#include "trajmill/batch_source.hpp"

namespace trajmill {

// A column from its name, row shape and NumPy dtype; throws py::type_error for a dtype that has no place in a batch.
Column column_of(const std::string& name, const std::vector<std::size_t>& shape, const pybind11::dtype& dtype);

pybind11::dtype dtype_of(DataType type);

// A batch for `batch_size` rows: `out` itself once its arrays fit, or fresh arrays where it is None. `pointers`
// receives where each column goes.
pybind11::dict batch_for(const std::vector<Column>& columns, std::size_t batch_size, const pybind11::object& out,
                         std::vector<std::byte*>& pointers);

}  // namespace trajmill
