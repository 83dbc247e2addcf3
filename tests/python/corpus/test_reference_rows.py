"""Corpora of the authors' streams and of the paper's controls, through the command line and row by row."""

from __future__ import annotations

import numpy as np
import pytest

import trajmill as tm
from trajmill.cli import main
from trajmill.corpus import CorpusError
from trajmill.corpus.rows import empty_rows
from trajmill.corpus.sources import layout_of, make_spec, source_of

WORKERS = {"worker_count": 4, "batch_size": 12}
MARKOV = {"state_count": 300, "order": 2, "temperature": 0.5, "seed": 666} | WORKERS
IID = {"state_count": 30, "seed": 666} | WORKERS
MDP = {"state_count": 20, "action_count": 300, "policy_temperature": 1.0, "transition_temperature": 0.3}


def rows(kind: str, law: dict[str, object], first: int, count: int, **of: object) -> dict[str, np.ndarray]:
    spec = make_spec(kind, law, row_count=100, length=7, **of)
    source = source_of(spec)
    assert source.columns == layout_of(spec).columns
    arrays = empty_rows(source.columns, count)
    source.fill(first, arrays, threads=1)
    return arrays


@pytest.mark.parametrize(("first", "count"), [(0, 36), (1, 1), (2, 2), (5, 20), (9, 3), (11, 2), (24, 11)])
@pytest.mark.parametrize("kind", ["markov", "iid"])
def test_any_rows_are_those_of_the_iterations(kind: str, first: int, count: int):
    law = MARKOV if kind == "markov" else IID
    make = tm.reference.markov_tokens if kind == "markov" else tm.reference.iid_tokens
    everything = np.concatenate([make(**law, length=7, iteration=iteration) for iteration in range(3)])
    tokens = rows(kind, law, first, count, stream="reference")["tokens"]
    np.testing.assert_array_equal(tokens, everything[first : first + count])


@pytest.mark.parametrize("start", ["random", "fixed"])
def test_any_trajectories_are_the_authors(start: str):
    arrays = rows("mdp", MDP | {"start": start}, 30, 40, stream="reference")
    whole = tm.reference.mdp_transitions(100, 7, **MDP, random_start=start == "random")
    observations, actions, following = (column.reshape(100, 7)[30:70] for column in whole.values())
    np.testing.assert_array_equal(arrays["states"][:, :-1], observations)
    np.testing.assert_array_equal(arrays["states"][:, 1:], following)
    np.testing.assert_array_equal(arrays["actions"], actions)


def test_generate_writes_the_authors_tokens(tmp_path):
    out = tmp_path / "corpus"
    words = "generate markov --stream reference --seed 666 --sequence-count 512 --length 20 --quiet --out"
    assert main([*words.split(), str(out)]) == 0
    expected = np.concatenate([tm.reference.markov_tokens(1, 100, 1.0, 666, 8, 256, 20, i) for i in range(2)])
    np.testing.assert_array_equal(tm.open_corpus(out)[0:512], expected)


def test_settings_of_another_stream_are_refused_or_forgotten(tmp_path, capsys):
    words = ["generate", "markov", "--stream", "reference", "--initial", "uniform", "--out", str(tmp_path / "a")]
    assert main(words) == 1
    assert "initial must be softmax" in capsys.readouterr().err
    assert main(["generate", "markov", "--sequence-count", "3", "--quiet", "--out", str(tmp_path / "b")]) == 0
    assert "worker_count" not in (tmp_path / "b/manifest.json").read_text()
    with pytest.raises(ValueError, match="batch_size must be a multiple of worker_count = 5, got 12"):
        rows("iid", IID | {"worker_count": 5}, 0, 1, stream="reference")
    with pytest.raises(CorpusError, match="corpora of kind markov, iid, mdp, not 'mapping'"):
        make_spec("mapping", {}, row_count=1, length=1, stream="reference")
    with pytest.raises(CorpusError, match="corpora of stream v1, reference, not 'v2'"):
        make_spec("markov", {}, row_count=1, length=1, stream="v2")


def test_tokens_with_targets():
    law = {"state_count": 40, "action_count": 0, "seed": 3}
    identity, mapping = (rows(kind, law, 5, 90) for kind in ("identity", "mapping"))
    np.testing.assert_array_equal(identity["tokens"], identity["targets"])
    np.testing.assert_array_equal(identity["tokens"], mapping["tokens"])
    assert np.bincount(mapping["tokens"].ravel(), minlength=40).min() > 3  # 15.75 expected each
    pairs = set(zip(mapping["tokens"].ravel(), mapping["targets"].ravel(), strict=True))
    assert len(pairs) == 40 and len({target for _, target in pairs}) == 40
    assert any(token != target for token, target in pairs)


def test_pairs_with_targets():
    law = {"state_count": 5, "action_count": 4, "seed": 3}
    identity, mapping = (rows(kind, law, 5, 90) for kind in ("identity", "mapping"))
    for name in ("states", "actions"):
        np.testing.assert_array_equal(identity[name], identity[f"target_{name}"])
        np.testing.assert_array_equal(identity[name], mapping[name])
    pairs = {tuple(pair) for pair in np.stack([mapping[name].ravel() for name in mapping], axis=1).tolist()}
    assert len({pair[:2] for pair in pairs}) == len({pair[2:] for pair in pairs}) == len(pairs) == 20
