"""Every format, read back byte by byte from its specification, all values compared."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from export_corpora import raw_corpus, token_corpus, trajectory_corpus

from trajmill.core import MDP
from trajmill.core.reference import codebooks
from trajmill.corpus import CorpusError
from trajmill.corpus.export import (
    D4RL,
    FORMATS,
    MDS,
    Arrow,
    Datatrove,
    Megatron,
    NanoGPT,
    Parquet,
    Safetensors,
    export_corpus,
)
from trajmill.corpus.export import reading as export_reading
from trajmill.data import load_dataset, split_episodes

DTYPES = [("uint8", 250), ("uint16", 40_000), ("uint32", 60_000)]
ONE_SHARD = (0, 21)


@pytest.fixture(params=["small blocks", "large blocks"], autouse=True)
def block_bytes(request, monkeypatch):
    """Blocks of two or three rows, so that their seams are tested too."""
    if request.param == "small blocks":
        monkeypatch.setattr(export_reading, "BLOCK_BYTES", 40)


# nanoGPT


@pytest.mark.parametrize(("dtype", "largest"), DTYPES)
def test_nanogpt_reads_every_token(tmp_path, dtype, largest):
    corpus = token_corpus(tmp_path / "corpus", dtype, largest=largest)
    export_corpus(NanoGPT(validation_fraction=0.2), corpus, tmp_path / "out")
    train = np.memmap(tmp_path / "out/train.bin", dtype=np.uint16, mode="r")  # as nanoGPT's get_batch does
    validation = np.memmap(tmp_path / "out/val.bin", dtype=np.uint16, mode="r")
    assert len(validation) == 4 * 13
    assert np.concatenate([train, validation]).tolist() == corpus.arrays["tokens"].reshape(-1).tolist()
    meta = pickle.loads((tmp_path / "out/meta.pkl").read_bytes())
    assert meta["vocab_size"] == largest + 1 == len(meta["itos"])
    assert all(meta["stoi"][name] == token for token, name in meta["itos"].items())


def test_nanogpt_links_a_single_shard_of_uint16(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint16", ONE_SHARD)
    result = export_corpus(NanoGPT(validation_fraction=0), corpus, tmp_path / "out")
    assert (tmp_path / "out/train.bin").samefile(corpus.shard_paths()[0])
    assert result.linked_bytes == corpus.arrays["tokens"].nbytes
    assert not (tmp_path / "out/val.bin").exists()


def test_nanogpt_needs_enough_rows_to_split(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", bounds=(0, 3))
    with pytest.raises(CorpusError, match=r"holds 3 sequences, too few to keep a fraction of 0\.1 apart"):
        export_corpus(NanoGPT(), corpus, tmp_path / "out")
    with pytest.raises(ValueError, match=r"validation_fraction must be in \[0, 1\), got 1"):
        NanoGPT(validation_fraction=1)


def test_nanogpt_without_a_state_count_looks_for_the_largest_token(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint16", largest=777)
    corpus.spec.clear()
    export_corpus(NanoGPT(), corpus, tmp_path / "out")
    assert pickle.loads((tmp_path / "out/meta.pkl").read_bytes())["vocab_size"] == 778


# Megatron


def read_megatron(prefix: Path) -> list[np.ndarray]:
    """Sequences of a Megatron prefix, read as the layout says."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    ends = np.frombuffer(index, "<i8", documents, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * documents
    assert ends.tolist() == list(range(sequences + 1))
    data = prefix.with_suffix(".bin").read_bytes()
    dtype = {1: "<u1", 4: "<i4", 8: "<u2"}[code]
    return [np.frombuffer(data, dtype, n, p) for n, p in zip(lengths, pointers, strict=True)]


@pytest.mark.parametrize(("dtype", "largest"), [*DTYPES, ("uint32", 2**31 - 1)])
@pytest.mark.parametrize("single_file", [False, True])
def test_megatron_reads_every_token(tmp_path, dtype, largest, single_file):
    corpus = token_corpus(tmp_path / "corpus", dtype, largest=largest)
    export_corpus(Megatron(single_file=single_file), corpus, tmp_path / "out")
    names = ["tokens"] if single_file else ["tokens-00000", "tokens-00001", "tokens-00002"]
    sequences = [sequence for name in names for sequence in read_megatron(tmp_path / "out" / name)]
    assert np.stack(sequences).tolist() == corpus.arrays["tokens"].tolist()
    for source in corpus.shard_paths() if not single_file else []:
        assert source.samefile(tmp_path / "out" / source.name)


def test_megatron_refuses_tokens_beyond_int32(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint32", largest=2**31)
    message = r"Megatron reads int32 \(at most 2,147,483,647\), but .* holds the value 2,147,483,648 in column 'tokens'"
    with pytest.raises(CorpusError, match=message):
        export_corpus(Megatron(), corpus, tmp_path / "out")


# Arrow, Parquet


@pytest.mark.parametrize("make", [token_corpus, trajectory_corpus])
def test_arrow_reads_every_value(tmp_path, make):
    pyarrow = pytest.importorskip("pyarrow")
    corpus = make(tmp_path / "corpus")
    export_corpus(Arrow(), corpus, tmp_path / "out")
    names = [file["filename"] for file in json.loads((tmp_path / "out/state.json").read_text())["_data_files"]]
    assert names == [f"data-0000{i}-of-00003.arrow" for i in range(3)]
    tables = []
    for name in names:
        with pyarrow.memory_map(str(tmp_path / "out" / name)) as file:
            tables.append(pyarrow.ipc.open_stream(file).read_all())
    check_table(pyarrow.concat_tables(tables), corpus)


@pytest.mark.parametrize("make", [token_corpus, trajectory_corpus])
def test_parquet_reads_every_value(tmp_path, make):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    corpus = make(tmp_path / "corpus")
    export_corpus(Parquet(), corpus, tmp_path / "out")
    paths = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(paths) == 3
    check_table(parquet.read_table(paths), corpus)


def check_table(table, corpus) -> None:
    assert table.column_names == [column.name for column in corpus.columns]
    for column in corpus.columns:
        values = table[column.name].combine_chunks()
        assert values.type.value_type == column.dtype
        assert values.type.list_size == column.row_length
        assert values.to_pylist() == corpus.arrays[column.name].tolist()


# MDS


def read_mds(directory: Path) -> list[dict[str, np.ndarray]]:
    """Samples of an MDS directory, read as the layout says; digests checked."""
    xxhash = pytest.importorskip("xxhash")
    index = json.loads((directory / "index.json").read_text())
    assert index["version"] == 2
    samples = []
    for shard in index["shards"]:
        data = (directory / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"] <= max(shard["size_limit"], 1)
        assert shard["raw_data"]["hashes"] == {"xxh3_64": xxhash.xxh3_64_hexdigest(data)}
        assert shard["column_names"] == sorted(shard["column_names"])
        (count,) = struct.unpack_from("<I", data)
        offsets = np.frombuffer(data, "<u4", count + 1, 4)
        config = json.loads(data[4 + offsets.nbytes : offsets[0]])
        assert config == {key: shard[key] for key in config}
        assert shard["samples"] == count and offsets[-1] == len(data)
        for start in offsets[:-1]:
            sample = {}
            for name, encoding in zip(shard["column_names"], shard["column_encodings"], strict=True):
                _, dtype, length = encoding.split(":")
                sample[name] = np.frombuffer(data, dtype, int(length), start)
                start += sample[name].nbytes  # noqa: PLW2901 (walks through the sample)
            samples.append(sample)
    return samples


@pytest.mark.parametrize("make", [token_corpus, trajectory_corpus])
@pytest.mark.parametrize("size_limit", [2**26, 400])
def test_mds_reads_every_value(tmp_path, make, size_limit):
    pytest.importorskip("xxhash")
    corpus = make(tmp_path / "corpus")
    export_corpus(MDS(size_limit=size_limit), corpus, tmp_path / "out")
    assert (len(list((tmp_path / "out").glob("shard.*.mds"))) > 1) == (size_limit == 400)
    samples = read_mds(tmp_path / "out")
    for name, array in corpus.arrays.items():
        assert np.stack([sample[name] for sample in samples]).tolist() == array.tolist()


def test_mds_gives_a_row_above_the_limit_its_own_shard(tmp_path):
    pytest.importorskip("xxhash")
    corpus = token_corpus(tmp_path / "corpus", bounds=(0, 3))
    export_corpus(MDS(size_limit=1), corpus, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard.*.mds"))) == 3


def test_mds_refuses_what_its_offsets_cannot_reach(tmp_path):
    with pytest.raises(ValueError, match=r"size_limit must be .* got 4294967296"):
        MDS(size_limit=2**32)
    corpus = token_corpus(tmp_path / "corpus")
    object.__setattr__(corpus.columns[0], "row_length", 2**32)
    corpus.shards = lambda column: []
    with pytest.raises(CorpusError, match=r"an MDS shard holds less than 4 GiB, one row has 4,294,967,296 bytes"):
        export_corpus(MDS(), corpus, tmp_path / "out")


# datatrove


@pytest.mark.parametrize(("dtype", "largest"), DTYPES)
def test_datatrove_reads_every_token(tmp_path, dtype, largest):
    corpus = token_corpus(tmp_path / "corpus", dtype, largest=largest)
    export_corpus(Datatrove(), corpus, tmp_path / "out")
    size = 4 if dtype == "uint32" else 2
    rows = []
    for path in sorted((tmp_path / "out").glob("*.ds")):
        tokens = np.fromfile(path, f"<u{size}")
        ends = np.fromfile(f"{path}.index", "<u8")
        assert Path(f"{path}.metadata").read_text().splitlines()[:2] == [f"trajmill|{size}", str(len(tokens))]
        assert ends[-1] == len(tokens)
        rows += np.split(tokens, ends[:-1].astype(int))
    assert np.stack(rows).tolist() == corpus.arrays["tokens"].tolist()
    linked = [source.stat().st_nlink > 1 for source in corpus.shard_paths()]
    assert all(linked) if dtype != "uint8" else not any(linked)


# safetensors


@pytest.mark.parametrize("make", [token_corpus, trajectory_corpus])
def test_safetensors_reads_every_value(tmp_path, make):
    corpus = make(tmp_path / "corpus")
    export_corpus(Safetensors(), corpus, tmp_path / "out")
    paths = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in paths] == [f"data-0000{i}-of-00003.safetensors" for i in range(3)]
    parts = [safetensors.numpy.load_file(path) for path in paths]
    for name, array in corpus.arrays.items():
        assert all(part[name].dtype == array.dtype for part in parts)
        assert np.concatenate([part[name] for part in parts]).tolist() == array.tolist()
    with safetensors.safe_open(paths[1], "np") as file:
        assert file.metadata()["first_row"] == "8"
        assert json.loads(file.metadata()["spec"]) == corpus.spec


def test_safetensors_align_every_tensor_to_its_type(tmp_path):
    arrays = {"flags": np.ones((3, 1), "uint8"), "numbers": np.arange(3, dtype="uint32").reshape(3, 1)}
    export_corpus(Safetensors(), raw_corpus(tmp_path / "corpus", arrays, [0, 3]), tmp_path / "out")
    data = (tmp_path / "out/data-00000-of-00001.safetensors").read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    assert header_bytes % 8 == 0
    assert header["numbers"]["data_offsets"] == [0, 12]


# D4RL


def test_d4rl_is_read_by_load_dataset(tmp_path):
    corpus = trajectory_corpus(tmp_path / "corpus")
    export_corpus(D4RL(observation_dim=11, action_dim=3), corpus, tmp_path / "mdp.hdf5")
    dataset = load_dataset(tmp_path / "mdp.hdf5")
    state_vectors, action_vectors = codebooks(300, 7, 11, 3)
    states, actions = corpus.arrays["states"], corpus.arrays["actions"]
    np.testing.assert_array_equal(dataset.observations, state_vectors[states[:, :-1].reshape(-1)])
    np.testing.assert_array_equal(dataset.next_observations, state_vectors[states[:, 1:].reshape(-1)])
    np.testing.assert_array_equal(dataset.actions, action_vectors[actions.reshape(-1)])
    assert not dataset.rewards.any() and not dataset.terminals.any()
    assert dataset.timeouts.nonzero()[0].tolist() == list(range(8, 21 * 9, 9))
    assert {len(episode) for episode in split_episodes(dataset)} == {9}
    assert json.loads(dataset.metadata["spec"]) == corpus.spec


def test_d4rl_takes_the_vectors_of_the_mdp_or_bare_numbers(tmp_path):
    corpus = trajectory_corpus(tmp_path / "corpus")
    states, actions = corpus.arrays["states"][:, :-1].reshape(-1), corpus.arrays["actions"].reshape(-1)
    export_corpus(D4RL(vectors="codebook", observation_dim=5, action_dim=2), corpus, tmp_path / "codebook.hdf5")
    dataset, mdp = load_dataset(tmp_path / "codebook.hdf5"), MDP(state_count=300, action_count=7)
    np.testing.assert_array_equal(dataset.observations, mdp.state_vectors(5)[states])
    np.testing.assert_array_equal(dataset.actions, mdp.action_vectors(2)[actions])
    export_corpus(D4RL(vectors="index"), corpus, tmp_path / "index.hdf5")
    dataset = load_dataset(tmp_path / "index.hdf5")  # numbers of categories, which nobody would clip
    assert dataset.observations[:, 0].tolist() == states.tolist()
    assert dataset.actions[:, 0].tolist() == actions.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "observation_dim is needed with vectors 'reference'"),
        ({"observation_dim": 3}, "action_dim is needed"),
        ({"vectors": "index", "action_dim": 3}, "action_dim has no meaning with vectors 'index'"),
        ({"vectors": "gaussian"}, "vectors must be one of 'reference', 'codebook', 'index', got 'gaussian'"),
        ({"observation_dim": 0, "action_dim": 1}, "observation_dim must be between 1"),
    ],
)
def test_d4rl_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        D4RL(**options)


def test_d4rl_refuses_what_its_format_cannot_say(tmp_path):
    corpus = trajectory_corpus(tmp_path / "corpus")
    corpus.spec["state_count"] = 2**24 + 1
    with pytest.raises(CorpusError, match=r"float32 .* 16,777,216 of 16,777,217 numbers.*use vectors"):
        export_corpus(D4RL(vectors="index"), corpus, tmp_path / "out.hdf5")
    arrays = {"states": np.zeros((1, 2), "uint8"), "actions": np.zeros((1, 1), "uint8")}
    with pytest.raises(CorpusError, match="holds one transition"):
        export_corpus(D4RL(vectors="index"), raw_corpus(tmp_path / "one", arrays, [0, 1]), tmp_path / "out.hdf5")
    arrays["states"] = np.zeros((1, 3), "uint8")
    with pytest.raises(CorpusError, match=r"states need one column more than actions \(1\), got 3"):
        export_corpus(D4RL(vectors="index"), raw_corpus(tmp_path / "bad", arrays, [0, 1]), tmp_path / "out.hdf5")


# what all of them share


def options_of(name):
    """Options that suit a format, whose defaults suffice everywhere but for D4RL."""
    return {"vectors": "index"} if name == "d4rl" else {}


@pytest.mark.parametrize("name", ["nanogpt", "megatron", "datatrove"])
def test_formats_of_tokens_refuse_trajectories(tmp_path, name):
    with pytest.raises(CorpusError, match=r"reads tokens; .* has the columns actions, states"):
        export_corpus(FORMATS[name](), trajectory_corpus(tmp_path / "corpus"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_d4rl_refuses_tokens(tmp_path):
    with pytest.raises(CorpusError, match=r"holds trajectories \(states and actions\); .* has the columns tokens"):
        export_corpus(D4RL(vectors="index"), token_corpus(tmp_path / "corpus"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_corpus_is_refused(tmp_path, name):
    corpus = token_corpus(tmp_path / "corpus")
    corpus.row_count = 0
    with pytest.raises(CorpusError, match="holds no rows; there is nothing to export"):
        export_corpus(FORMATS[name](**options_of(name)), corpus, tmp_path / "out")


def test_values_too_large_for_the_format_are_named_before_anything_is_written(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint32", largest=65_536)
    message = r"nanoGPT reads uint16 \(at most 65,535\), but .* holds the value 65,536 in column 'tokens'"
    with pytest.raises(CorpusError, match=message):
        export_corpus(NanoGPT(), corpus, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


@pytest.mark.parametrize(
    ("format", "name"),
    [
        (NanoGPT(validation_fraction=0, copy=True), "train.bin"),
        (Megatron(copy=True), "tokens-00000.bin"),
        (Datatrove(copy=True), "tokens-00000.ds"),
    ],
)
def test_copies_share_nothing_with_the_corpus(tmp_path, format, name):
    corpus = token_corpus(tmp_path / "corpus", "uint16", ONE_SHARD)
    result = export_corpus(format, corpus, tmp_path / "out")
    assert result.linked_bytes == 0
    assert corpus.shard_paths()[0].stat().st_nlink == 1
    assert (tmp_path / "out" / name).read_bytes() == corpus.shard_paths()[0].read_bytes()


@pytest.mark.parametrize("fault", ["no links", "no links, no copies in the kernel", "the kernel stops half-way"])
def test_file_systems_that_cannot_link_get_copies(tmp_path, monkeypatch, fault):
    kernel_copy = os.copy_file_range

    def refuse(*arguments):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def stop_half_way(source, target, count, offset):
        if count <= 20:
            refuse()
        return kernel_copy(source, target, count // 2, offset)

    monkeypatch.setattr(os, "link", refuse)
    if fault == "no links, no copies in the kernel":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    if fault == "the kernel stops half-way":
        monkeypatch.setattr(os, "copy_file_range", stop_half_way)
    corpus = token_corpus(tmp_path / "corpus", "uint16")
    assert export_corpus(Megatron(), corpus, tmp_path / "out").linked_bytes == 0
    sequences = [s for i in range(3) for s in read_megatron(tmp_path / f"out/tokens-0000{i}")]
    assert np.stack(sequences).tolist() == corpus.arrays["tokens"].tolist()


def test_shards_behind_symbolic_links_are_linked_themselves(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint16")
    (tmp_path / "elsewhere").mkdir()
    for path in corpus.shard_paths():
        path.rename(tmp_path / "elsewhere" / path.name)
        path.symlink_to(Path("..") / "elsewhere" / path.name)
    export_corpus(Megatron(), corpus, tmp_path / "out")
    assert not (tmp_path / "out/tokens-00000.bin").is_symlink()
    assert len(read_megatron(tmp_path / "out/tokens-00000")) == 8


@pytest.mark.parametrize("name", FORMATS)
def test_progress_ends_at_the_number_of_rows(tmp_path, name):
    if name in ("arrow", "parquet", "mds"):
        pytest.importorskip("pyarrow" if name != "mds" else "xxhash")
    make = trajectory_corpus if name == "d4rl" else token_corpus
    seen = []
    export_corpus(
        FORMATS[name](**options_of(name)),
        make(tmp_path / "corpus"),
        tmp_path / "out",
        progress=lambda task, completed, total, unit: seen.append((completed, total)),
    )
    assert seen[-1] == (21, 21)
    assert [completed for completed, _ in seen] == sorted({completed for completed, _ in seen})


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match=r"needs pyarrow; install it with: pip install 'trajmill\[export\]'"):
        export_corpus(Arrow(), token_corpus(tmp_path / "corpus"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_too_long_for_a_format_are_refused(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    object.__setattr__(corpus.columns[0], "row_length", 2**31)
    corpus.shards = lambda column: []
    with pytest.raises(CorpusError, match=r"Megatron reads sequences below 2\^31 tokens, these have 2,147,483,648"):
        export_corpus(Megatron(), corpus, tmp_path / "out")
    pytest.importorskip("pyarrow")
    with pytest.raises(CorpusError, match=r"fewer than 2\^31 values, a row of 'tokens' has 2,147,483,648"):
        export_corpus(Arrow(), corpus, tmp_path / "out")


def test_a_shard_cut_off_during_the_export_is_noticed(tmp_path, monkeypatch):
    corpus = token_corpus(tmp_path / "corpus", "uint16")
    whole = corpus.shards()
    corpus.shards = lambda column: whole  # mapped before the cut
    corpus.shard_paths()[1].write_bytes(b"")
    with pytest.raises(CorpusError, match=rf"tokens-00001\.bin ended {8 * 13 * 2:,} bytes early"):
        export_corpus(Safetensors(), corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()
