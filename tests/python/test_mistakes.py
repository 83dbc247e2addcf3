"""Plausible mistakes at every public function: the message names what was meant, in words of the user's."""

# ruff: noqa: PLW0108  (a table of calls reads best in one form)

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill.cli import main

WRONG = ["x", 1.5, None, -1, 2**70, [1], {}, np.array([1.5]), True, math.nan, object()]
FOREIGN = (
    "incompatible function arguments",
    "std::",
    "has no attribute",
    "not subscriptable",
    "unsupported operand",
    "is not iterable",
    "Invoked with",
    "cannot be interpreted",
    "must be real number",
    "unhashable",
    "not supported between",
    "'NoneType' object",
    "_core.",
)
"""what Python or the binding says where nobody has looked"""

DATASET = tm.load_dataset("hopper-sac-replay-10k").rows(slice(0, 200))
MDP, CHAIN, LAW = tm.MDP(state_count=5, action_count=3), tm.MarkovChain(state_count=5), tm.Dyck(pairs=3)
CORPUS = tm.VirtualCorpus(CHAIN, sequence_count=10, length=5)


def buffer(**options: Any) -> tm.ReplayBuffer:
    return tm.ReplayBuffer.from_dataset(DATASET, **options)


CALLS: dict[str, Callable[[Any], object]] = {
    "ReplayBuffer, capacity": lambda wrong: tm.ReplayBuffer(wrong, {"a": "f4"}),
    "ReplayBuffer, schema": lambda wrong: tm.ReplayBuffer(3, wrong),
    "ReplayBuffer, seed": lambda wrong: tm.ReplayBuffer(3, {"a": "f4"}, seed=wrong),
    "ReplayBuffer.add": lambda wrong: buffer().add(wrong),
    "ReplayBuffer.add, environments": lambda wrong: buffer().add(environments=wrong),
    "ReplayBuffer.sample": lambda wrong: buffer().sample(wrong),
    "ReplayBuffer.sample, out": lambda wrong: buffer().sample(4, out=wrong),
    "ReplayBuffer.sample, threads": lambda wrong: buffer().sample(4, threads=wrong),
    "ReplayBuffer.sample, replace": lambda wrong: buffer().sample(4, replace=wrong),
    "ReplayBuffer.sample, beta": lambda wrong: buffer(prioritized=True).sample(4, beta=wrong),
    "ReplayBuffer.batches": lambda wrong: buffer().batches(wrong),
    "ReplayBuffer.batches, count": lambda wrong: buffer().batches(4, count=wrong),
    "ReplayBuffer.share": lambda wrong: buffer().share(wrong, 2),
    "ReplayBuffer.draw_count": lambda wrong: setattr(buffer(), "draw_count", wrong),
    "ReplayBuffer.beta": lambda wrong: setattr(buffer(prioritized=True), "beta", wrong),
    "ReplayBuffer[]": lambda wrong: buffer()[wrong],
    "MixedReplay": lambda wrong: tm.MixedReplay(wrong),
    "MixedReplay, weight": lambda wrong: tm.MixedReplay({"a": (buffer(), wrong)}),
    "MixedReplay.sample": lambda wrong: tm.MixedReplay({"a": (buffer(), 1.0)}).sample(wrong),
    "MDPTransitions": lambda wrong: tm.MDPTransitions(wrong, observation_dim=3, action_dim=2),
    "MDPTransitions.sample": lambda wrong: tm.MDPTransitions(
        MDP, observation_dim=3, action_dim=2, trajectory_count=2, length=5
    ).sample(wrong),
    "MarkovChain.sample": lambda wrong: CHAIN.sample(wrong, 3),
    "MarkovChain.sample, length": lambda wrong: CHAIN.sample(3, wrong),
    "MarkovChain.sample, threads": lambda wrong: CHAIN.sample(3, 3, threads=wrong),
    "MarkovChain.sample, out": lambda wrong: CHAIN.sample(3, 3, out=wrong),
    "MarkovChain.sample_sequences": lambda wrong: CHAIN.sample_sequences(wrong, 3),
    "MarkovChain.probabilities": lambda wrong: CHAIN.probabilities(wrong),
    "Law.sample": lambda wrong: LAW.sample(wrong, 3),
    "Law.sample, columns": lambda wrong: LAW.sample(2, 3, columns=wrong),
    "Law.predictive": lambda wrong: LAW.predictive(wrong),
    "VirtualCorpus": lambda wrong: tm.VirtualCorpus(wrong, sequence_count=3, length=3),
    "VirtualCorpus, sequence_count": lambda wrong: tm.VirtualCorpus(CHAIN, sequence_count=wrong, length=3),
    "VirtualCorpus[]": lambda wrong: CORPUS[wrong],
    "VirtualCorpus.shuffled": lambda wrong: CORPUS.shuffled(wrong),
    "CorpusSampler": lambda wrong: tm.CorpusSampler(wrong, batch_size=3),
    "load_dataset": lambda wrong: tm.load_dataset(wrong),
    "open_corpus": lambda wrong: tm.open_corpus(wrong),
    "load_policy": lambda wrong: tm.load_policy(wrong),
    "load_run": lambda wrong: tm.load_run(wrong),
    "train": lambda wrong: tm.train(wrong, out="never", updates=1),
    "train, dataset": lambda wrong: tm.train("td3_bc", out="never", updates=1, dataset=wrong),
    "train, out": lambda wrong: tm.train("td3_bc", out=wrong, dataset="nowhere"),
    "train, updates": lambda wrong: tm.train("td3_bc", out="never", updates=wrong, dataset="nowhere"),
    "train, method": lambda wrong: tm.train("td3_bc", out="never", updates=1, dataset="nowhere", method=wrong),
    "train, callback": lambda wrong: tm.train("td3_bc", out="never", dataset="nowhere", callback=wrong),
    "train, loggers": lambda wrong: tm.train("td3_bc", out="never", dataset="nowhere", loggers=wrong),
    "train, processes": lambda wrong: tm.train("td3_bc", out="never", dataset="nowhere", processes=wrong),
    "train, progress": lambda wrong: tm.train("td3_bc", out="never", dataset="nowhere", progress=wrong),
    "train, resume": lambda wrong: tm.train("td3_bc", out="never", dataset="nowhere", resume=wrong),
    "write_dataset": lambda wrong: tm.write_dataset("never.npz", wrong),
    "Subset": lambda wrong: tm.Subset(wrong, 1),
    "feed": lambda wrong: tm.feed(wrong, "cpu", batch_size=3),
    "feed, batch_size": lambda wrong: tm.feed(buffer(), "cpu", batch_size=wrong),
    "feed, device": lambda wrong: tm.feed(buffer(), wrong, batch_size=3),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_are_told_in_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = 0
    for wrong in WRONG:
        try:
            CALLS[name](wrong)
        except (TypeError, ValueError, IndexError, OSError) as error:  # another kind is nobody's message
            refused += 1
            told = str(error)
            assert not any(words in told for words in FOREIGN), f"{name}({wrong!r}): {told}"
            assert told.strip() and len(told) < 600
    assert refused >= 4, "most of these are mistakes"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["markov", "--sequence-count", "0"], "sequence_count"),
        (["mdp", "--trajectory-count", "0"], "trajectory_count"),
        (["dyck", "--sequence-count", "0"], "sequence_count"),
        (["iid", "--length", "0"], "length"),
    ],
)
def test_commands_name_what_was_typed(
    words: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *words, "--out", str(tmp_path / "corpus"), "--quiet"]) == 1
    assert f"trajmill: {name} must be between 1 and " in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()
