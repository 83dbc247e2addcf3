#include "bindings.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of trajmill: seeded chains and MDPs, replay.";
  trajmill::bind_batch_source(module);
  trajmill::bind_batch_feed(module);
  trajmill::bind_machine(module);
  trajmill::bind_markov_chain(module);
  trajmill::bind_mdp(module);
  trajmill::bind_mdp_transitions(module);
  trajmill::bind_mixed_replay(module);
  trajmill::bind_permutation(module);
  trajmill::bind_reference(module);
  trajmill::bind_seeded_batches(module);
  trajmill::bind_trajectory_buffer(module);
  trajmill::bind_replay_buffer(module);
}
