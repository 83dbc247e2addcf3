#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "batches.hpp"
#include "named_values.hpp"
#include "trajmill/trajectory_buffer.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using NamedArray = std::tuple<std::string, py::array, py::array>;  // name, steps, padding of one step

using NamedArrays = py::typing::Tuple<py::typing::Tuple<py::str, py::array, py::array>, py::ellipsis>;

// Rows of (first row, length).
std::vector<Episode> episodes_of(const Indexes& rows) {
  if (rows.ndim() != 2 || rows.shape(1) != 2) {
    throw std::invalid_argument("episodes must be rows of (first row, length), shape (M, 2)");
  }
  std::vector<Episode> episodes;
  for (py::ssize_t row = 0; row < rows.shape(0); ++row) episodes.push_back({rows.at(row, 0), rows.at(row, 1)});
  return episodes;
}

// Windows of arrays that stay where they are for as long as the buffer lives.
class PythonTrajectoryBuffer final : public TrajectoryBuffer {
 public:
  PythonTrajectoryBuffer(std::vector<Pinned> pins, std::span<const Episode> episodes, std::vector<StepArray> arrays,
                         std::size_t context_length, std::size_t timestep_limit, std::uint64_t seed)
      : TrajectoryBuffer(episodes, std::move(arrays), context_length, timestep_limit, seed), pins_(std::move(pins)) {}

 private:
  std::vector<Pinned> pins_;
};

StepArray step_array(const NamedArray& named, std::vector<Pinned>& pins) {
  const auto& [name, given, padding] = named;
  const Pinned& pinned = pins.emplace_back(given);
  const py::array& steps = pinned.array();
  if (steps.ndim() == 0 || (steps.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument(message("'", name, "' must be a C-contiguous array with one row a step"));
  }
  const std::vector<std::size_t> shape(steps.shape() + 1, steps.shape() + steps.ndim());
  Column column = column_of(name, shape, steps.dtype());
  if (!padding.dtype().equal(steps.dtype()) || static_cast<std::size_t>(padding.nbytes()) != column.byte_count() ||
      (padding.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument(message("the padding of '", name, "' must look like one of its steps"));
  }
  std::vector<std::byte> pad(column.byte_count());
  std::memcpy(pad.data(), padding.data(), pad.size());
  return {std::move(column), pinned.data(), static_cast<std::size_t>(steps.shape(0)), std::move(pad)};
}

std::span<const float> span_of(const Floats& array) { return {array.data(), static_cast<std::size_t>(array.size())}; }

std::span<float> mutable_span_of(Floats& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

}  // namespace

void bind_trajectory_buffer(py::module_& module) {
  py::class_<PythonTrajectoryBuffer, BatchSource>(module, "TrajectoryBuffer",
                                                  "Windows of steps; arrays are kept, not copied.")
      .def(py::init([](const Indexes& episodes, const NamedArrays& arrays, std::size_t context_length,
                       std::size_t timestep_limit, std::uint64_t seed) {
             std::vector<StepArray> steps;
             std::vector<Pinned> pins;
             for (const py::handle& array : arrays) steps.push_back(step_array(array.cast<NamedArray>(), pins));
             return std::make_unique<PythonTrajectoryBuffer>(std::move(pins), episodes_of(episodes), std::move(steps),
                                                             context_length, timestep_limit, seed);
           }),
           py::kw_only(), py::arg("episodes"), py::arg("arrays"), py::arg("context_length"), py::arg("timestep_limit"),
           py::arg("seed"), "From rows of (first row, length) and tuples of (name, steps, padding of one step).")
      .def(
          "windows",
          [](const PythonTrajectoryBuffer& buffer, const Indexes& starts, const py::object& out,
             std::size_t threads) -> py::typing::Dict<py::str, py::array> {
            const std::vector<std::uint64_t> steps = copied(starts);
            const Batch batch = batch_for(buffer.batch_columns(), steps.size(), out);
            released([&] { buffer.windows(steps, batch.pointers, threads); });
            return batch.arrays;
          },
          py::arg("starts"), py::arg("out") = py::none(), py::arg("threads") = 1,
          "The windows that start at these steps, numbered through all episodes: a batch as `sample` gives it.")
      .def_property_readonly("step_count", &TrajectoryBuffer::step_count, "Steps that a window may start at.")
      .def_property_readonly("seed", &TrajectoryBuffer::seed)
      .def_property(
          "draw_count", &TrajectoryBuffer::draw_count,
          [](PythonTrajectoryBuffer& source, Whole<"draw_count"> count) { source.set_draw_count(count); },
          "Draws made so far; also the number of the next.");

  module.def(
      "normalize_rows",
      [](const Floats& rows, const Floats& mean, const Floats& scale) {
        if (rows.ndim() != 2 || mean.size() != rows.shape(1)) {
          throw std::invalid_argument(message("mean and scale must have as many numbers as a row, got ", mean.size(),
                                              " and ", scale.size(), " for rows of shape ",
                                              text_of(rows.attr("shape"))));
        }
        Floats out({rows.shape(0), rows.shape(1)});
        normalize_rows(span_of(rows), span_of(mean), span_of(scale), mutable_span_of(out));
        return out;
      },
      py::arg("rows"), py::arg("mean"), py::arg("scale"),
      "(row - mean) / scale in double precision, rounded once, float32 [N, O].");
  module.def(
      "returns_to_go",
      [](const Floats& reward, const Indexes& episodes, double discount, double scale) {
        Floats out(reward.size());
        std::ranges::fill(mutable_span_of(out), 0.0F);
        returns_to_go(span_of(reward), episodes_of(episodes), discount, scale, mutable_span_of(out));
        return out;
      },
      py::arg("reward"), py::arg("episodes"), py::arg("discount"), py::arg("scale"),
      "Discounted suffix sums of each episode, divided by `scale`, float32 [N].");
}

}  // namespace trajmill
