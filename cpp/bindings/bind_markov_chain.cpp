#include <pybind11/stl.h>

#include "bindings.hpp"
#include "trajmill/markov_chain.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

template <class Make>
std::unique_ptr<MarkovChain> build(std::size_t thread_count, const Make& make) {
  std::unique_ptr<MarkovChain> chain;
  run_released(thread_count, [&](const RunOptions& options) { chain = std::make_unique<MarkovChain>(make(options)); });
  return chain;
}

}  // namespace

void bind_markov_chain(py::module_& module) {
  py::class_<ChainLaw>(module, "ChainLaw", "The law of a random chain.")
      .def(py::init([](std::uint32_t state_count, std::uint32_t order, double temperature, bool uniform_initial,
                       std::uint64_t seed) {
             return ChainLaw{state_count, order, Temperature(temperature),
                             uniform_initial ? InitialLaw::uniform : InitialLaw::softmax, seed};
           }),
           py::kw_only(), py::arg("state_count"), py::arg("order"), py::arg("temperature"), py::arg("uniform_initial"),
           py::arg("seed"))
      .def(
          "probabilities",
          [](const ChainLaw& law, const std::vector<std::uint32_t>& context) {
            Doubles row(static_cast<py::ssize_t>(law.state_count));
            chain_probabilities(law, context, mutable_span_of(row));
            return row;
          },
          py::arg("context"), "The exact law of what follows a context, float64 [state_count].");

  py::class_<MarkovChain>(module, "MarkovChain", "Alias tables of a Markov chain and the stream that draws from them.")
      .def(py::init([](const ChainLaw& law, const std::string& backend, std::size_t memory_limit, std::size_t threads) {
             return build(threads, [&](const RunOptions& options) {
               return MarkovChain(law, backend_of(backend), memory_limit, options);
             });
           }),
           py::arg("law"), py::kw_only(), py::arg("backend"), py::arg("memory_limit"), py::arg("threads"))
      .def_static(
          "from_probabilities",
          [](const Doubles& initial, const Doubles& transition, std::uint64_t seed, std::size_t memory_limit,
             std::size_t threads) {
            const auto states = static_cast<std::size_t>(initial.size());
            require(static_cast<std::size_t>(transition.size()) == states * states, "transition must be [S, S] where ",
                    "initial is [S], got ", transition.size(), " numbers for ", states, " states");
            const Pinned first(initial), rows(transition);
            return build(threads, [&](const RunOptions& options) {
              return MarkovChain::from_probabilities(span_of(initial), span_of(transition), seed, memory_limit,
                                                     options);
            });
          },
          py::kw_only(), py::arg("initial"), py::arg("transition"), py::arg("seed"), py::arg("memory_limit"),
          py::arg("threads"))
      .def(
          "sample",
          [](const MarkovChain& chain, std::uint64_t first_sequence, const py::array& out, std::size_t threads) {
            const Filled rows(out);
            run_released(threads,
                         [&](const RunOptions& options) { chain.sample({first_sequence}, rows.rows, options); });
          },
          py::kw_only(), py::arg("first_sequence"), py::arg("out"), py::arg("threads"),
          "Fill out [sequences, length] with the sequences from first_sequence on.")
      .def(
          "sample_sequences",
          [](const MarkovChain& chain, const Indexes& indexes, const py::array& out, std::size_t threads) {
            const Filled rows(out);
            const std::vector<std::uint64_t> numbers = copied(indexes);
            const Sequences sequences = sequences_of(numbers, rows.rows);
            run_released(threads, [&](const RunOptions& options) { chain.sample(sequences, rows.rows, options); });
          },
          py::kw_only(), py::arg("indexes"), py::arg("out"), py::arg("threads"),
          "Fill row k of out [sequences, length] with the sequence of number indexes[k].")
      .def_property_readonly(
          "backend", [](const MarkovChain& chain) { return backend_name(chain.table() != nullptr); },
          "'dense' or 'implicit'.")
      .def_property_readonly(
          "byte_count",
          [](const MarkovChain& chain) { return chain.table() == nullptr ? 0 : chain.table()->byte_count(); },
          "Size of the tables in bytes.");
}

}  // namespace trajmill
