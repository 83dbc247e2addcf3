"""A chain of your own probabilities, and the exact law behind it."""

import numpy as np

import trajmill as tm

weather = np.array([[0.8, 0.2, 0.0], [0.3, 0.4, 0.3], [0.0, 0.5, 0.5]])  # sun, clouds, rain
chain = tm.MarkovChain.from_probabilities(weather, initial=[1.0, 0.0, 0.0], seed=7)

days = chain.sample(sequence_count=10_000, length=365)  # uint8 (10000, 365); row i never depends on the others
print("a week:", days[0, :7])

counts = np.zeros((3, 3))
np.add.at(counts, (days[:, :-1], days[:, 1:]), 1)
print("frequencies:\n", (counts / counts.sum(1, keepdims=True)).round(3))
print("after rain:", chain.probabilities([2]))
