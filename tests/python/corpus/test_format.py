"""What is on disk: a pure function of the spec, whoever writes it, as docs/corpus-format.md says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import xxhash
from small_corpus import SPECS, files, mdp_spec, token_spec

import trajmill as tm
from trajmill.corpus import CorpusError, StoredCorpus
from trajmill.corpus.build import build, make_shard
from trajmill.corpus.sources import make_spec
from trajmill.corpus.survey import verify


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def law_of(spec):
    if spec["kind"] == "mdp":
        return tm.MDP(state_count=300, action_count=7, transition_temperature=np.inf, seed=7, backend="dense")
    return tm.MarkovChain(state_count=300, seed=spec["seed"], backend="dense")


def test_bytes_are_those_of_the_law(spec, tmp_path):
    build(spec, tmp_path / "c")
    law = law_of(spec)
    drawn = law.sample(21, spec["length"])
    columns = {"tokens": drawn} if spec["kind"] == "markov" else {"states": drawn.states, "actions": drawn.actions}
    for name, array in columns.items():
        data = b"".join((tmp_path / f"c/{name}-{shard:05d}.bin").read_bytes() for shard in range(3))
        assert data == array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(("row_count", "length"), [(1, 1), (3, 5), (21, 1001), (5, 4097), (8, 512)])
def test_sizes_that_no_disk_block_divides(row_count, length, tmp_path):
    spec = token_spec(row_count=row_count, length=length)
    build(spec, tmp_path)
    rows = law_of(spec).sample(row_count, length)
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.bin"))) == rows.tobytes()
    assert not verify(tmp_path).problems


def test_bytes_do_not_depend_on_threads_engines_or_order(spec, tmp_path):
    build(spec, tmp_path / "a", threads=1)
    build(spec, tmp_path / "b", threads=3)
    (tmp_path / "c").mkdir()
    for shard in (2, 0, 1):
        make_shard(spec, shard, tmp_path / "c")
    build(spec, tmp_path / "c")
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_records_say_what_the_page_says(tmp_path):
    """Read by the description alone, without our reader."""
    build(mdp_spec(), tmp_path)
    assert sorted(files(tmp_path)) == [
        *(f"actions-0000{k}.bin" for k in range(3)),
        "manifest.json",
        *(f"receipt-0000{k}.json" for k in range(3)),
        *(f"states-0000{k}.bin" for k in range(3)),
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["spec"] == mdp_spec()
    assert manifest["format"] == "trajmill-corpus" and manifest["format_version"] == 1
    for shard, rows in enumerate((8, 8, 5)):
        data = (tmp_path / f"receipt-0000{shard}.json").read_bytes()
        assert xxhash.xxh3_128_hexdigest(data) == manifest["receipts"][shard]
        receipt = json.loads(data)
        assert receipt["shard"] == shard and receipt["spec"] == mdp_spec()
        own = receipt.pop("hash")
        assert own == xxhash.xxh3_128_hexdigest(json.dumps(receipt, indent=1, sort_keys=True).encode() + b"\n")
        for column in receipt["columns"]:
            bytes_of_row = column["row_length"] * np.dtype(column["dtype"]).itemsize
            content = (tmp_path / f"{column['name']}-0000{shard}.bin").read_bytes()
            assert len(content) == rows * bytes_of_row
            blocks = [content[i : i + 4 * bytes_of_row] for i in range(0, len(content), 4 * bytes_of_row)]
            assert column["blocks"] == [xxhash.xxh3_128_hexdigest(block) for block in blocks]


def test_bytes_and_hashes_are_frozen(tmp_path):
    """A change of the format or of stream v1 shows here; hashes are added to, never edited."""
    golden = {"tokens": "90f330e4e9e470ec9df98b99b86540cf", "mdp": "60b5267df7c9c84e3ce25d929ff8913a"}
    for name, spec in SPECS.items():
        build(spec, tmp_path / name)
        assert json.loads((tmp_path / name / "manifest.json").read_text())["hash"] == golden[name]


def test_a_longer_corpus_begins_with_the_shorter_one(tmp_path):
    build(token_spec(row_count=16), tmp_path / "short")
    build(token_spec(row_count=24), tmp_path / "long")
    for shard in range(2):
        name = f"tokens-0000{shard}.bin"
        assert (tmp_path / "short" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()


def test_default_sizes(tmp_path):
    spec = make_spec("iid", {"state_count": 10, "seed": 1}, row_count=5, length=1000)
    assert (spec["shard_rows"], spec["block_rows"]) == (2**18, 2**14)
    single = make_spec("iid", {"state_count": 10, "seed": 1}, row_count=5, length=1000, shard_rows=8)
    assert (single["shard_rows"], single["block_rows"]) == (8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_rows": 12}, "shard_rows must be a power of two, got 12"),
        ({"shard_rows": 0}, "shard_rows must be between 1 and"),
        ({"row_count": 0}, "row count must be between 1 and"),
        ({"length": 0}, "length must be between 1 and"),
    ],
)
def test_sizes_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        make_spec("iid", {"state_count": 10, "seed": 1}, **{"row_count": 5, "length": 10, **change})


@pytest.mark.parametrize("change", [{"kind": "poem"}, {"stream": "v9"}, {"backend": "magic"}])
def test_a_spec_of_tomorrow_is_refused_with_words(change, tmp_path):
    with pytest.raises(
        CorpusError, match=f"makes corpora of {next(iter(change))} .*not '{next(iter(change.values()))}'"
    ):
        build(token_spec() | change, tmp_path)


def test_a_shard_that_does_not_exist(tmp_path):
    with pytest.raises(IndexError, match="shard must be between 0 and 2, got 3"):
        make_shard(token_spec(), 3, tmp_path)


def test_reading(spec, tmp_path):
    build(spec, tmp_path)
    stored = tm.open_corpus(tmp_path)
    assert isinstance(stored, StoredCorpus) and stored.directory == tmp_path and len(stored) == stored.row_count == 21
    virtual = tm.VirtualCorpus(law_of(spec), sequence_count=21, length=spec["length"])
    assert stored.columns == virtual.columns
    for key in (0, 20, -1, -21, slice(6, 19), slice(None, None, -5), slice(4, 4), np.int64(9)):
        equal(stored[key], virtual[key])
    picks = np.array([20, 0, 8, 7, 8])
    for one, other in zip(stored.__getitems__(picks), virtual.__getitems__(picks), strict=True):
        equal(one, other)
    equal(pickle.loads(pickle.dumps(stored))[3], stored[3])
    assert [equal(one, other) for one, other in zip(stored, virtual, strict=True)] == [None] * 21
    for name in (column.name for column in stored.columns):
        rows = np.concatenate(stored.shards(name))
        assert np.array_equal(rows, stored.read(np.arange(21))[name])
        assert [path.stat().st_size for path in stored.shard_paths(name)] == [
            map_.nbytes for map_ in stored.shards(name)
        ]


def equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    else:
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_reading_outside(tmp_path):
    build(token_spec(), tmp_path)
    corpus = tm.open_corpus(tmp_path)
    for wrong in (21, -22):
        with pytest.raises(IndexError, match="row must be between -21 and 20"):
            corpus[wrong]
        with pytest.raises((IndexError, ValueError), match="rows must be between 0 and"):
            corpus.__getitems__([0, wrong])
    with pytest.raises(CorpusError, match="no column 'states'; columns are tokens"):
        corpus.shards("states")


def test_shards_are_read_only(tmp_path):
    build(token_spec(), tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        tm.open_corpus(tmp_path).shards()[0][0, 0] = 1


def descriptors_and_memory() -> tuple[int, int]:
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return len(list(Path("/proc/self/fd").iterdir())), int(resident.split()[1]) * 1024


@pytest.mark.unsanitized
def test_opening_and_closing_leaks_nothing(tmp_path):
    build(token_spec(row_count=400), tmp_path / "c")  # 3 MB in 50 shards

    def cycle():
        with_maps = tm.open_corpus(tmp_path / "c")
        with_maps.shards()
        with_maps.close()
        verify(tmp_path / "c", threads=1)

    for _ in range(10):
        cycle()
    before, resident = descriptors_and_memory()
    for _ in range(100):
        cycle()
    after, grown = descriptors_and_memory()
    assert after == before
    assert grown - resident < 8e6  # a cycle that kept its maps or buffers would add 300 MB
