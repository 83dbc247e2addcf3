"""What objects look like in a line and in a notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricate import fabricate_run

import trajmill as tm
from trajmill import laws
from trajmill.core import pictures
from trajmill.data import qlearning_transitions, split_episodes
from trajmill.runs.reading import read_run

CHAIN = tm.MarkovChain(state_count=5, seed=1)
MDP = tm.MDP(state_count=5, action_count=3, seed=1)
HOPPER = "hopper-sac-replay-10k"


def parts(thing: Any) -> list[ElementTree.Element]:
    """The picture's elements, of a page that is whole."""
    page = ElementTree.fromstring(re.sub("<br>", "<br/>", thing._repr_html_()))
    return list(page.iter("{http://www.w3.org/2000/svg}" + "path")) + list(
        page.iter("{http://www.w3.org/2000/svg}rect")
    )


@pytest.mark.parametrize("kind", laws.names())
def test_every_law_shows_some_of_its_sequences(kind: str) -> None:
    for law in laws.find(kind).examples():
        assert parts(law) and len(law._repr_html_()) < 40_000


def test_cells_are_the_first_tokens() -> None:
    tokens = CHAIN.sample(pictures.ROWS, pictures.COLUMNS)
    drawn = {int(path[0].text or ""): path.attrib["d"].count("M") for path in parts(CHAIN)}
    assert drawn == dict(enumerate(np.bincount(tokens.ravel()).tolist()))
    corpus = tm.VirtualCorpus(CHAIN, sequence_count=10**12, length=8)
    (first,) = (path for path in parts(corpus.shuffled(3)) if path[0].text == "0")
    row, column = np.argwhere(corpus.shuffled(3)[:8] == 0)[0]
    assert first.attrib["d"].startswith(f"M{column} {row}h")


def test_a_corpus_of_very_long_rows_is_not_read_for_a_picture() -> None:
    corpus = tm.VirtualCorpus(CHAIN, sequence_count=2, length=2**31)
    assert not parts(corpus) and "VirtualCorpus" in corpus._repr_html_()


def test_bars_are_the_returns_of_episodes() -> None:
    dataset = tm.load_dataset(HOPPER)
    heights = [float(bar.attrib["height"]) for bar in parts(dataset)]
    returns = [episode.undiscounted_return for episode in split_episodes(dataset)]
    groups = [float(np.mean(part)) for part in np.array_split(returns, 60)]
    np.testing.assert_allclose(heights, np.abs(groups) / max(groups), atol=0.02)
    below = parts(type("Any", (), {"_repr_html_": lambda self: pictures.html("", pictures.bars([-2, -1], "x"))})())
    assert [float(bar.attrib["height"]) for bar in below] == [1.0, 0.5] and {bar.attrib["y"] for bar in below} == {
        "0.0000"
    }


def test_a_buffer_shows_how_full_it_is() -> None:
    buffer = tm.ReplayBuffer(100, {"reward": ((), "f4")})
    buffer.add(reward=np.zeros(30, "f4"))
    assert [bar.attrib["width"] for bar in parts(buffer)] == ["1", "0.3000"]
    mixed = tm.MixedReplay({"real": (buffer, 1.0)})
    assert repr(mixed) == "MixedReplay('real': ReplayBuffer)"


def test_reprs_are_one_short_line(tmp_path: Path) -> None:
    dataset = tm.load_dataset(HOPPER)
    transitions = tm.MDPTransitions(MDP, observation_dim=4, action_dim=2, trajectory_count=3, length=5)
    corpus = tm.VirtualCorpus(CHAIN, sequence_count=10, length=8)
    things = {
        "70 episodes": dataset,
        "9,930 rows, 11 observations, 3 actions": qlearning_transitions(dataset),
        "28 steps, return 10.3, terminal": next(iter(split_episodes(dataset))),
        "4 trajectories of 5 transitions, uint8": MDP.sample(4, 5),
        "15 rows, 4 observations, 2 actions": transitions,
        ".shuffled(3)": corpus.shuffled(3),
        "CorpusSampler(10, batch_size=2, seed=1)": tm.CorpusSampler(10, batch_size=2, seed=1),
    }
    for words, thing in things.items():
        assert words in repr(thing) and "\n" not in repr(thing) and len(repr(thing)) < 200


def test_a_buffer_of_trajectories_counts_episodes() -> None:
    steps, ends = np.zeros((6, 2), "f4"), np.array([0, 0, 1, 0, 0, 1], bool)
    buffer = tm.TrajectoryBuffer(
        observation=steps, action=steps, reward=steps[:, 0], terminal=ends, truncated=~ends & ends, context_length=2
    )
    assert repr(buffer).startswith("TrajectoryBuffer(2 episodes of 6 steps together: observation, ")


def test_a_run_shows_its_evaluations(tmp_path: Path) -> None:
    run = read_run(fabricate_run(tmp_path / "run"))
    assert "run run: " in repr(run) and len(parts(run)) == len(run.series["evaluation"]["normalized_score"].values)


def test_words_are_escaped() -> None:
    assert pictures.html("<Dataset a&b>").count("&lt;Dataset a&amp;b&gt;") == 1
