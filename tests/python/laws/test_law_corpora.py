"""Corpora of laws: virtual ones, stored ones, and what their specs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_battery import EXAMPLES, length_of

import trajmill as tm
from trajmill import laws
from trajmill.core.law import Law
from trajmill.corpus.build import build
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.sources import layout_of, make_spec, source_of, vocabulary_size

FIRSTS = [pytest.param(laws.find(kind).examples()[0], id=kind) for kind in laws.names()]
ALL = [pytest.param(laws.find(kind).examples()[number], id=f"{kind}-{number}") for kind, number in EXAMPLES]


def spec_of(law: Law, row_count: int = 37, **more: Any) -> dict[str, Any]:
    return make_spec(law.kind(), law.spec(), row_count=row_count, length=length_of(law), **more)


@pytest.mark.parametrize("law", FIRSTS)
def test_stored_rows_are_virtual_rows_and_samples(law: Law, tmp_path: Path) -> None:
    length, names = length_of(law), law.extra_columns
    build(spec_of(law, columns=names, shard_rows=16), tmp_path / "corpus", threads=2)
    stored = tm.open_corpus(tmp_path / "corpus")
    virtual = tm.VirtualCorpus(law, sequence_count=37, length=length, columns=names)
    assert stored.columns == virtual.columns
    drawn = law.sample(37, length, columns=names)
    for name, array in stored[:].items():
        np.testing.assert_array_equal(array, virtual[:][name])
        np.testing.assert_array_equal(array, drawn[name])
    np.testing.assert_array_equal(stored.shuffled(3)[5]["tokens"], virtual.shuffled(3)[5]["tokens"])


@pytest.mark.parametrize("law", ALL)
def test_specs_of_corpora_name_every_field_and_the_vocabulary(law: Law) -> None:
    spec = spec_of(law)
    assert set(law.spec()) <= set(spec)
    assert "columns" not in spec
    assert vocabulary_size(spec) == law.vocabulary_size
    assert layout_of(spec).columns == source_of(spec).columns == law.columns(length_of(law))


def test_a_field_of_a_newer_version_is_refused() -> None:
    spec = spec_of(tm.Dyck()) | {"colour": "red"}
    with pytest.raises(CorpusError, match="does not know colour of a law of kind 'dyck'"):
        source_of(spec)


def test_columns_that_a_law_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a column of a Dyck must be one of .*'states', got 'mood'"):
        tm.VirtualCorpus(tm.Dyck(), sequence_count=3, length=8, columns=["mood"])
    with pytest.raises(ValueError, match="a MarkovChain has no column 'loss_mask'"):
        tm.VirtualCorpus(tm.MarkovChain(state_count=3), sequence_count=3, length=8, columns=["loss_mask"])
