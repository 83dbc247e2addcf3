"""Text as rows of tokens: packing, the tokenizer, what is stored, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from text_twin import packed, packed_as_released

from trajmill.corpus import CorpusError
from trajmill.corpus import text as module
from trajmill.corpus.text import END, open_text, store_text, text_name

pytest.importorskip("tokenizers")

ONE = " = Robert = \n \n\nHe was an actor .\n" + "The theatre was full , the theatre was loud .\n" * 20
TWO = (
    "naïve café — 東京 🙂\ttabs  and   spaces\n\n   \nits letters <|endoftext|> mean nothing\nlast line without a break"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    directory = tmp_path_factory.mktemp("texts")
    for name, content in (("one.txt", ONE), ("two.txt", TWO)):
        (directory / name).write_text(content, encoding="utf-8")
    return [directory / "one.txt", directory / "two.txt"]


@pytest.fixture(scope="module")
def stored(files: list[Path], tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("stored") / "text"
    store_text(files, directory, vocabulary_size=300)
    return directory


@pytest.mark.parametrize("length", [2, 7, 64])
def test_rows_equal_the_slow_twin(length: int, files: list[Path], stored: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_BATCH_LINES", 3)
    store_text(files, tmp_path / "text", vocabulary=stored)
    tokenizer, _ = module._tokenizer(stored)
    wanted = packed(files, lambda line: tokenizer.encode(line).ids, tokenizer.token_to_id(END), length)
    rows = open_text(tmp_path / "text", length)
    got = np.zeros((rows.row_count, length), rows.columns[0].dtype)
    rows.fill(0, {"tokens": got}, 1)
    assert got.tolist() == wanted and rows.row_count == len(wanted) > 1
    some = np.zeros((1, length), rows.columns[0].dtype)
    rows.fill(1, {"tokens": some}, None)
    assert some.tolist() == [wanted[1]]


@pytest.mark.parametrize("seed", [666, 0])
def test_shuffled_rows_equal_the_released_packing(seed: int, files: list[Path], stored: Path, tmp_path: Path) -> None:
    """Lines keep their breaks, those of Windows as Python reads them; blank lines only have places in the order."""
    more = tmp_path / "more.txt"
    more.write_bytes(b"one\r\n\r\ntwo\n" + b"".join(b"line %d \n\n" % number for number in range(50)))
    texts = [*files, more]
    store_text(texts, tmp_path / "text", vocabulary=stored, shuffle_seed=seed)
    tokenizer, _ = module._tokenizer(stored)
    wanted = packed_as_released(
        texts, lambda line: tokenizer.encode(line).ids, tokenizer.token_to_id(END), length=7, seed=seed
    )
    rows = open_text(tmp_path / "text", 7)
    got = np.zeros((rows.row_count, 7), rows.columns[0].dtype)
    rows.fill(0, {"tokens": got}, 1)
    assert got.tolist() == wanted and rows.row_count > 50


def test_tokens_decode_to_the_lines(stored: Path) -> None:
    tokenizer, size = module._tokenizer(stored)
    end = tokenizer.token_to_id(END)
    tokens = open_text(stored, 4).tokens
    texts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    assert texts.pop().size == 0
    lines = [line for line in (ONE + TWO).split("\n") if line.strip()]
    assert [tokenizer.decode(text[:-1].tolist()) for text in texts] == lines
    assert tokens.dtype == np.uint16 and size == open_text(stored, 4).vocabulary_size == 300


def test_training_makes_the_same_tokenizer_again(files: list[Path], stored: Path, tmp_path: Path) -> None:
    store_text(files, tmp_path / "again", vocabulary_size=300)
    for name in ("tokens.bin", "vocab.json", "merges.txt", "text.json"):
        assert (tmp_path / "again" / name).read_bytes() == (stored / name).read_bytes(), name


def test_merges_are_applied_as_gpt2_does(files: list[Path], tmp_path: Path) -> None:
    """A vocabulary of bytes, the end mark last as GPT-2 has it, and two merges."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, "th", "Ġth", END]
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nĠ th\n")
    (tmp_path / "text.txt").write_text("the th t\r\n")
    store_text([tmp_path / "text.txt"], tmp_path / "stored", vocabulary=tmp_path)
    wanted = [names.index(name) for name in ("th", "e", "Ġth", "Ġ", "t", END)]
    assert open_text(tmp_path / "stored", 2).tokens.tolist() == wanted


def test_many_tokens_take_four_bytes(files: list[Path], stored: Path, tmp_path: Path) -> None:
    vocabulary = json.loads((stored / "vocab.json").read_text())
    vocabulary |= {f"unused {number}": number for number in range(len(vocabulary), 70_000)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    shutil.copy(stored / "merges.txt", tmp_path)
    store_text(files, tmp_path / "stored", vocabulary=tmp_path)
    rows = open_text(tmp_path / "stored", 5)
    assert rows.tokens.dtype == np.uint32 and rows.vocabulary_size == 70_000
    assert np.array_equal(rows.tokens, open_text(stored, 5).tokens)


def test_the_name_follows_content_and_tokenizer(files: list[Path], stored: Path, tmp_path: Path) -> None:
    name = text_name(files, None, 300)
    for path in files:
        shutil.copy(path, tmp_path)
    assert text_name([tmp_path / "one.txt", tmp_path / "two.txt"], None, 300) == name
    (tmp_path / "two.txt").write_text(TWO + ".", encoding="utf-8")
    others = [
        text_name([tmp_path / "one.txt", tmp_path / "two.txt"], None, 300),
        text_name(files[::-1], None, 300),
        text_name(files, None, 301),
        text_name(files, stored, 300),
        text_name(files, None, 300, 42),
        text_name(files, None, 300, 666),
    ]
    assert len({name, *others}) == 7


def test_damage_is_found(stored: Path, tmp_path: Path) -> None:
    for name in ("tokens.bin", "vocab.json", "merges.txt"):
        copy = tmp_path / name
        shutil.copytree(stored, copy)
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(CorpusError, match=rf"is damaged \({name}\); remove it"):
            open_text(copy, 4)
    (tmp_path / "tokens.bin" / "tokens.bin").unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*tokens.bin: No such file"):
        open_text(tmp_path / "tokens.bin", 4)
    clean = tmp_path / "clean"
    shutil.copytree(stored, clean)
    good = json.loads((stored / "text.json").read_text())
    for content in (good | {"token_count": 3}, good | {"format": "other"}, good | {"sha256": {}}, [], {}, 3):
        (clean / "text.json").write_text(json.dumps(content))
        with pytest.raises(CorpusError, match="remove it"):
            open_text(clean, 4)


def test_wrong_files_are_refused_and_nothing_is_left(files: list[Path], stored: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    bad, blank = tmp_path / "bad.txt", tmp_path / "blank.txt"
    bad.write_bytes(b"fine\n\xff\xfe\n")
    blank.write_text(" \n\n \t\n")
    with pytest.raises(CorpusError, match=r"bad.txt must be UTF-8 text, line 2 is not"):
        store_text([files[0], bad], work / "text", vocabulary_size=300)
    with pytest.raises(CorpusError, match=r"blank.txt hold no line of text"):
        store_text([blank], work / "text", vocabulary_size=300)
    with pytest.raises(CorpusError, match="a text needs at least one file, got none"):
        text_name([], None, 300)
    with pytest.raises(CorpusError, match=r"cannot read .*missing.txt: No such file"):
        text_name([tmp_path / "missing.txt"], None, 300)
    with pytest.raises(CorpusError, match=r"cannot read .*vocab.json: No such file"):
        text_name(files, tmp_path, 300)
    with pytest.raises(ValueError, match=r"vocabulary_size.* 257 .*got 256"):
        store_text(files, work / "text", vocabulary_size=256)
    shutil.copy(stored / "merges.txt", tmp_path)
    vocabulary = json.loads((stored / "vocab.json").read_text())
    for change, message in (
        ({name: number for name, number in vocabulary.items() if name != END}, "it lacks .*endoftext"),
        (vocabulary | {"unused": 400}, "must number its 301 tokens from 0 on"),
        ([1, 2], "make no tokenizer"),
        ({"a": 0}, "make no tokenizer"),
    ):
        (tmp_path / "vocab.json").write_text(json.dumps(change))
        with pytest.raises(CorpusError, match=message):
            store_text(files, work / "text", vocabulary=tmp_path)
    assert list(work.iterdir()) == []


def test_a_missing_library_names_its_extra(files: list[Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(CorpusError, match=r"pip install 'trajmill\[text\]'"):
        store_text(files, tmp_path / "text")
