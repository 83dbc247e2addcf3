"""What exporters do with a vocabulary, a mask, other columns and a map of tokens."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill.cli import main
from trajmill.corpus.build import build
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export import FORMATS, export_corpus
from trajmill.corpus.rows import StoredCorpus
from trajmill.corpus.sources import make_spec

LAW = tm.Dyck(pairs=5, max_depth=3)


def corpus_of(folder: Path, *columns: str) -> StoredCorpus:
    spec = make_spec("dyck", LAW.spec(), row_count=40, length=32, columns=columns, shard_rows=16)
    build(spec, folder / "corpus", threads=1)
    return tm.open_corpus(folder / "corpus")


def test_nanogpt_knows_the_vocabulary_and_writes_the_mask_beside(tmp_path: Path) -> None:
    law = tm.SequenceTask(task="reverse", alphabet=9, input_length=(1, 6), pack=True)
    spec = make_spec("sequence_task", law.spec(), row_count=40, length=32, columns=["loss_mask"], shard_rows=16)
    build(spec, tmp_path / "corpus", threads=1)
    corpus = tm.open_corpus(tmp_path / "corpus")
    export_corpus(FORMATS["nanogpt"](), corpus, tmp_path / "out")
    assert pickle.loads((tmp_path / "out/meta.pkl").read_bytes())["vocab_size"] == law.vocabulary_size
    rows = corpus[:]
    assert 0 < rows["loss_mask"].mean() < 1
    for part, cut in (("train", slice(0, 36)), ("val", slice(36, 40))):
        tokens = np.fromfile(tmp_path / f"out/{part}.bin", "<u2").reshape(-1, 32)
        mask = np.fromfile(tmp_path / f"out/{part}.mask.bin", "u1").reshape(-1, 32)
        np.testing.assert_array_equal(tokens, rows["tokens"][cut])
        np.testing.assert_array_equal(mask, rows["loss_mask"][cut])


@pytest.mark.parametrize("name", ["megatron", "datatrove"])
def test_formats_of_tokens_alone_refuse_a_mask(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"reads tokens; .* has the columns loss_mask, tokens"):
        export_corpus(FORMATS[name](), corpus_of(tmp_path, "loss_mask"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nanogpt_refuses_what_it_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nanoGPT reads tokens; .* has the columns states, tokens"):
        export_corpus(FORMATS["nanogpt"](), corpus_of(tmp_path, "states"), tmp_path / "out")


def test_the_d4rl_format_refuses_tokens(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds trajectories"):
        export_corpus(FORMATS["d4rl"](vectors="index"), corpus_of(tmp_path), tmp_path / "out.hdf5")


def _safetensors(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["tokens"].reshape(-1)


def _arrow(out: Path) -> np.ndarray:
    pyarrow = pytest.importorskip("pyarrow")
    parts = [pyarrow.ipc.open_stream(str(path)).read_all() for path in sorted(out.glob("*.arrow"))]
    return np.concatenate([np.array(part["tokens"].to_pylist()).reshape(-1) for part in parts])


def _parquet(out: Path) -> np.ndarray:
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = [parquet.read_table(path) for path in sorted(out.glob("*.parquet"))]
    return np.concatenate([np.array(part["tokens"].to_pylist()).reshape(-1) for part in parts])


def _mds(out: Path) -> np.ndarray:
    data = (out / "shard.00000.mds").read_bytes()
    return np.frombuffer(data[-40 * 32 * 2 :], "<u2")


def _safetensor_shards(out: Path) -> np.ndarray:
    return np.concatenate([_safetensors(path) for path in sorted(out.glob("*.safetensors"))])


READERS: dict[str, Any] = {
    "nanogpt": lambda out: np.fromfile(out / "train.bin", "<u2"),
    "megatron": lambda out: np.concatenate([np.fromfile(path, "<u2") for path in sorted(out.glob("*.bin"))]),
    "datatrove": lambda out: np.concatenate([np.fromfile(path, "<u2") for path in sorted(out.glob("*.ds"))]),
    "safetensors": _safetensor_shards,
    "arrow": _arrow,
    "parquet": _parquet,
    "mds": _mds,
}


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"d4rl"}))
def test_every_format_writes_mapped_tokens(name: str, tmp_path: Path) -> None:
    """Ids as a tokenizer of Pythia's size would have them."""
    if name == "safetensors":
        pytest.importorskip("safetensors")
    corpus = corpus_of(tmp_path)
    ids = [50_000 - 7 * token for token in range(10)]
    options = {"validation_fraction": 0.0} if name == "nanogpt" else {}
    export_corpus(FORMATS[name](**options), corpus, tmp_path / "out", token_map=ids)
    expected = np.array(ids)[corpus[:].astype(int)].reshape(-1)
    np.testing.assert_array_equal(READERS[name](tmp_path / "out"), expected)
    record = json.loads((tmp_path / "out/.trajmill-export.json").read_text())
    assert record["token_map"] == ids
    assert record["columns"][0]["dtype"] == "uint16"


def test_maps_that_name_too_few_tokens_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus_of(tmp_path)
    for text, message in (
        ("[1, 2]", "the map of tokens must name all 10 tokens of .*, got 2"),
        ('{"a": 1}', "must be a JSON list"),
        ("[-1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "a token in the map must be between 0 and 4294967295, got -1"),
        ("nonsense", "cannot be read"),
    ):
        (tmp_path / "map.json").write_text(text)
        words = ["corpus", "export", "nanogpt", str(tmp_path / "corpus"), str(tmp_path / "out")]
        assert main([*words, "--token-map", str(tmp_path / "map.json"), "--quiet"]) == 1
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "out").exists()
