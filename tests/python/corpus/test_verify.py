"""Damage of every kind is found, named and mended; half a corpus is never taken for a whole one."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress

import pytest
from small_corpus import SPECS, files, mdp_spec, token_spec

import trajmill as tm
from trajmill.corpus import CorpusError
from trajmill.corpus.build import build
from trajmill.corpus.records import Manifest, Receipt, sign
from trajmill.corpus.survey import merge, verify


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flip(path, bit):
    path.write_bytes(flipped(path.read_bytes(), bit))


def test_a_whole_corpus_has_no_problems(spec, tmp_path):
    build(spec, tmp_path)
    found = verify(tmp_path)
    assert not found.problems
    assert found.byte_count == sum(path.stat().st_size for path in tmp_path.glob("*.bin"))


def found_by_verify(directory) -> bool:
    try:
        return bool(verify(directory, threads=1).problems)
    except CorpusError:
        return True


@pytest.mark.parametrize("name", ["manifest.json", "receipt-00000.json", "receipt-00002.json"])
def test_every_flipped_bit_of_a_record_is_found(name, tmp_path):
    build(mdp_spec(), tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    parse = Manifest.parse if name == "manifest.json" else Receipt.parse
    for bit in range(8 * len(data)):
        with pytest.raises(CorpusError):
            parse(flipped(data, bit), name)
    for bit in random.Random(1).sample(range(8 * len(data)), 20):  # and not only by the reader
        flip(path, bit)
        assert found_by_verify(tmp_path)
        flip(path, bit)
    assert not verify(tmp_path).problems


def test_every_flipped_bit_of_the_data_is_found(tmp_path):
    build(mdp_spec(row_count=9, length=1), tmp_path)
    for path in sorted(tmp_path.glob("*.bin")):
        for bit in range(8 * path.stat().st_size):
            flip(path, bit)
            problems = verify(tmp_path, threads=1).problems
            assert len(problems) == 1 and problems[0].startswith(f"{path.name} is damaged in rows")
            flip(path, bit)


def test_every_truncation_is_found(spec, tmp_path):
    build(spec, tmp_path)
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for size in sorted({0, 1, len(data) // 2, len(data) - 1}):
            path.write_bytes(data[:size])
            assert found_by_verify(tmp_path), (path, size)
            if not path.name.startswith("receipt"):
                with pytest.raises(CorpusError):
                    tm.open_corpus(tmp_path)
        path.write_bytes(data + b"\0")
        assert found_by_verify(tmp_path)
        path.unlink()
        assert found_by_verify(tmp_path)
        path.write_bytes(data)
    assert not verify(tmp_path).problems


def test_the_place_of_damage_is_named(tmp_path):
    build(token_spec(), tmp_path)
    flip(tmp_path / "tokens-00001.bin", 8 * 5 * 8192 + 3)
    assert verify(tmp_path).problems == ("tokens-00001.bin is damaged in rows 4 to 7 of the shard",)


def test_swapped_files_are_found(tmp_path):
    build(token_spec(), tmp_path)
    shutil.copy(tmp_path / "receipt-00001.json", tmp_path / "receipt-00000.json")
    assert "receipt-00000.json is the receipt of shard 1" in verify(tmp_path).problems
    other = tmp_path / "other"
    build(token_spec(seed=8), other)
    shutil.copy(other / "receipt-00000.json", tmp_path / "receipt-00000.json")
    assert "receipt-00000.json belongs to another corpus: seed is 8, not 7" in verify(tmp_path).problems


def test_a_forged_receipt_is_not_the_one_the_manifest_names(tmp_path):
    build(token_spec(), tmp_path)
    path = tmp_path / "receipt-00000.json"
    record = json.loads(path.read_text())
    del record["hash"]
    record["columns"][0]["blocks"][0] = "0" * 32
    path.write_bytes(sign(record))
    assert verify(tmp_path).problems == (
        "receipt-00000.json is not the one that manifest.json names",
        "tokens-00000.bin is damaged in rows 0 to 3 of the shard",
    )


def test_rehash_makes_damaged_shards_anew(spec, tmp_path):
    build(spec, tmp_path)
    whole = files(tmp_path)
    name = next(name for name in whole if name.endswith("-00001.bin"))
    flip(tmp_path / name, 100)
    assert build(spec, tmp_path).made == 0
    assert build(spec, tmp_path, rehash=True).made == 1
    assert files(tmp_path) == whole


@pytest.mark.parametrize("loss", ["lost", "flipped"])
def test_a_manifest_is_rebuilt_from_receipts(loss, spec, tmp_path):
    build(spec, tmp_path)
    whole = files(tmp_path)
    if loss == "lost":
        (tmp_path / "manifest.json").unlink()
        assert verify(tmp_path).problems == ("manifest.json is missing",)
        assert len(tm.open_corpus(tmp_path)) == 21  # every receipt is there: nothing is missing
    else:
        flip(tmp_path / "manifest.json", 77)
    merge(tmp_path)
    assert files(tmp_path) == whole


def test_gaps_are_refused_and_named(tmp_path):
    build(token_spec(), tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "receipt-00001.json").unlink()
    with pytest.raises(CorpusError, match=r"is unfinished: 1 of 3 shards are missing \(1\)"):
        tm.open_corpus(tmp_path)
    with pytest.raises(CorpusError, match="1 of 3 shards are missing"):
        merge(tmp_path)


def test_merge_looks_at_the_files(tmp_path):
    build(token_spec(), tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "tokens-00001.bin").unlink()
    with pytest.raises(CorpusError, match=r"cannot be merged: tokens-00001\.bin is missing"):
        merge(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", ["manifest.json", "receipt-00001.json"])
def test_a_newer_format_is_refused_with_words(name, tmp_path):
    build(token_spec(), tmp_path)
    path = tmp_path / name
    record = {**json.loads(path.read_text()), "format_version": 2, "news": True}
    path.write_text(json.dumps(record))
    for use in (verify, merge, lambda place: build(token_spec(), place)):
        with pytest.raises(
            CorpusError, match=f"{name} was written by a newer trajmill .format 2, this one knows 1.; upgrade"
        ):
            use(tmp_path)
    if name == "manifest.json":
        with pytest.raises(CorpusError, match="newer trajmill"):
            tm.open_corpus(tmp_path)


def test_what_is_no_corpus(tmp_path):
    for use in (tm.open_corpus, verify, merge):
        with pytest.raises(CorpusError, match=r"holds no manifest\.json and no receipt: not a corpus"):
            use(tmp_path)
        with pytest.raises(CorpusError, match="not a corpus"):
            use(tmp_path / "nowhere")
    (tmp_path / "file").write_text("words")
    with pytest.raises(CorpusError, match="is a file, not a directory"):
        verify(tmp_path / "file")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes, or the parsed record and its hash, changed at a random place."""
    if rng.random() < 0.4:
        out = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(out) + 1)
            match rng.randrange(4):
                case 0:
                    out[at:at] = rng.randbytes(rng.randint(1, 9))
                case 1:
                    del out[at : at + rng.randint(1, 200)]
                case 2:
                    out[at:at] = rng.choice([b"[" * 5000, b"9" * 5000, b"NaN", b"1e999", b'"\\ud800"', b"\xff", b"\0"])
                case _:
                    out[at : at + 1] = rng.randbytes(1)
        return bytes(out)
    record = json.loads(data)
    del record["hash"]
    for _ in range(rng.randint(1, 3)):
        place, key = _random_place(record, rng)
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(
                [
                    None,
                    True,
                    -1,
                    0,
                    3,
                    2**64,
                    10**30,
                    1.5,
                    float("nan"),
                    "",
                    "x",
                    "../x",
                    [],
                    {},
                    [[]],
                    ["0" * 32],
                    {"a": 1},
                ]
            )
    return sign(record)


def _random_place(record, rng):
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list) and value[key]:
                walk(value[key])

    walk(record)
    return rng.choice(places)


@pytest.mark.parametrize("rounds", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_input_breaks_a_reader(rounds, tmp_path):
    """Whatever bytes a record holds, reading it succeeds or raises CorpusError."""
    build(mdp_spec(), tmp_path)
    rng = random.Random(20261121)
    refused = 0
    for name, parse in (("manifest.json", Manifest.parse), ("receipt-00001.json", Receipt.parse)):
        data = (tmp_path / name).read_bytes()
        for _ in range(rounds // 2):
            try:
                parse(mutated(data, rng), name)
            except CorpusError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 0.85 * rounds


def test_no_input_breaks_the_programs(tmp_path):
    build(mdp_spec(), tmp_path)
    whole = files(tmp_path)
    rng = random.Random(4)
    for _ in range(100):
        name = rng.choice(["manifest.json", "receipt-00000.json", "receipt-00001.json"])
        (tmp_path / name).write_bytes(mutated(whole[name], rng))
        for use in (tm.open_corpus, verify, merge, lambda place: build(mdp_spec(), place)):
            with suppress(CorpusError):
                use(tmp_path)
        for name, data in whole.items():
            (tmp_path / name).write_bytes(data)
