"""Text as rows of tokens: byte-level BPE, an end mark after each line, everything joined and cut into equal rows.

Lines are taken in order and without their breaks or, as arXiv 2310.00771 does, shuffled and with them.

The stored form is a directory: ``tokens.bin`` (all tokens one after the other, uint16 or uint32, little endian),
``vocab.json`` and ``merges.txt`` (the tokenizer, in GPT-2's own format) and ``text.json`` (what it was made of, and
checksums). Rows of any length are cut from it when it is read.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.core.files import replacing, sha256_of
from trajmill.core.json_input import read_json
from trajmill.core.paths import input_path
from trajmill.core.progress import Progress, silent
from trajmill.corpus.errors import CorpusError, library

END = "<|endoftext|>"
"""GPT-2's token between texts: it follows every line; in the text itself these letters have no special meaning"""

FORMAT = "trajmill-text-1"
_BATCH_LINES = 4096
_TOKENIZER_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of `length` tokens of a stored text; a shorter rest at the end of the text is left out."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    """all tokens of the text, mapped from the file"""
    vocabulary_size: int
    length: int

    @property
    def row_count(self) -> int:
        """Whole rows."""
        return len(self.tokens) // self.length

    @property
    def columns(self) -> tuple[Column, ...]:
        """The column ``tokens`` alone."""
        return (Column(name="tokens", dtype=self.tokens.dtype.name, row_length=self.length),)

    def fill(self, first_row: int, arrays: Mapping[str, npt.NDArray[Any]], threads: int | None) -> None:
        """Fill ``tokens`` (rows, length) with the rows from `first_row` on."""
        out = arrays["tokens"]
        begin = first_row * self.length
        out[:] = self.tokens[begin : begin + out.size].reshape(out.shape)


def text_name(
    files: Sequence[Path], vocabulary: Path | None, vocabulary_size: int, shuffle_seed: int | None = None
) -> str:
    """Name of the stored form of a text: the same for the same bytes, tokenizer and order, wherever they are."""
    if not files:
        raise CorpusError("a text needs at least one file, got none")
    parts = [FORMAT, END, *(_checksum(input_path(file)) for file in files)]
    if vocabulary is None:
        parts.append(f"trained to {vocabulary_size}")
    else:
        parts += [_checksum(input_path(vocabulary) / name) for name in _TOKENIZER_FILES]
    if shuffle_seed is not None:
        parts.append(f"shuffled by {shuffle_seed}")
    return "text-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def store_text(
    files: Sequence[Path],
    directory: Path,
    *,
    vocabulary: Path | None = None,
    vocabulary_size: int = 50_257,
    shuffle_seed: int | None = None,
    progress: Progress = silent,
) -> None:
    """Tokenize text files and store the tokens; the directory appears whole or not at all.

    Lines are those of the UTF-8 files, in order, without their line break; lines of white space alone are skipped.
    With `shuffle_seed` all lines of all files are read into memory, ``random.seed(shuffle_seed)`` and
    ``random.shuffle`` put them in order, and each keeps its break.
    `vocabulary` is a directory with GPT-2's ``vocab.json`` and ``merges.txt``; None trains a byte-level BPE on the
    text, of at most `vocabulary_size` tokens, at least 257: all bytes and the end mark.

    CorpusError if a file is missing or not UTF-8, the text has no line, or the vocabulary makes no tokenizer.
    """
    files = [input_path(file) for file in files]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with replacing(directory) as part:
        part.mkdir()
        if vocabulary is None:
            checks.integer("vocabulary_size, which includes all bytes and the end mark,", vocabulary_size, 257, 1 << 31)
            trained = library("tokenizers", "text", "text").ByteLevelBPETokenizer()
            options = {"min_frequency": 0, "show_progress": False, "special_tokens": [END]}
            lines = _lines(files, shuffle_seed, progress, "train the tokenizer")
            trained.train_from_iterator(lines, vocabulary_size, **options)
            trained.save_model(str(part))
        else:
            for name in _TOKENIZER_FILES:
                shutil.copyfile(input_path(vocabulary) / name, part / name)
        tokenizer, size = _tokenizer(part)
        dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
        count, end = 0, np.array([tokenizer.token_to_id(END)], dtype)
        with (part / "tokens.bin").open("wb") as out:
            lines = _lines(files, shuffle_seed, progress, "tokenize")
            while batch := list(islice(lines, _BATCH_LINES)):
                for encoded in tokenizer.encode_batch(batch):
                    ids = np.array(encoded.ids, dtype)
                    out.write(ids.tobytes() + end.tobytes())
                    count += len(ids) + 1
        if count == 0:
            raise CorpusError(f"{', '.join(map(str, files))} hold no line of text")
        manifest = {
            "format": FORMAT,
            "files": [{"name": path.name, "sha256": _checksum(path)} for path in files],
            "dtype": dtype.name,
            "token_count": count,
            "vocabulary_size": size,
            "end": int(end[0]),
            "sha256": {name: _checksum(part / name) for name in ("tokens.bin", *_TOKENIZER_FILES)},
        }
        (part / "text.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def open_text(directory: Path, length: int) -> TextRows:
    """Rows of a stored text, whose checksums are all compared first; CorpusError if it is none, or is damaged."""
    try:
        manifest = read_json(directory / "text.json")
        dtype, count = np.dtype(manifest["dtype"]).newbyteorder("<"), manifest["token_count"]
        for name, sha256 in manifest["sha256"].items():
            if _checksum(directory / name) != sha256:
                raise ValueError(name)
        known = manifest["format"] == FORMAT and manifest["sha256"].keys() == {"tokens.bin", *_TOKENIZER_FILES}
        if not known or (directory / "tokens.bin").stat().st_size != count * dtype.itemsize:
            raise ValueError("text.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"{directory} is not a stored text, or it is damaged ({error})"
        raise CorpusError(f"{fault}; remove it, then it is made again") from error
    tokens = np.memmap(directory / "tokens.bin", dtype, "r", shape=(count,))
    return TextRows(tokens, manifest["vocabulary_size"], length)


def _tokenizer(directory: Path) -> tuple[Any, int]:
    """The tokenizer of a directory and how many tokens it has."""
    tokenizers = library("tokenizers", "text", "text")
    try:
        tokenizer = tokenizers.ByteLevelBPETokenizer.from_file(*(str(directory / name) for name in _TOKENIZER_FILES))
    except Exception as error:  # the library raises nothing more special
        raise CorpusError(f"vocab.json and merges.txt make no tokenizer: {error}") from error
    vocabulary = tokenizer.get_vocab()
    if missing := {END, *tokenizers.pre_tokenizers.ByteLevel.alphabet()} - vocabulary.keys():
        raise CorpusError(f"vocab.json must have {END} and all 256 bytes, it lacks {sorted(missing)[:5]}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise CorpusError(f"vocab.json must number its {len(vocabulary)} tokens from 0 on without gaps")
    return tokenizer, len(vocabulary)


def _lines(files: Sequence[Path], shuffle_seed: int | None, progress: Progress, phase: str) -> Iterator[str]:
    """Lines with more than white space in them: in order without their breaks, or shuffled with them."""
    lines = _all_lines(files, progress, phase)
    if shuffle_seed is None:
        yield from (line.rstrip("\r\n") for line in lines if line.strip())
    else:
        shuffled = list(lines)
        random.Random(shuffle_seed).shuffle(shuffled)  # blank lines too, since they have places of their own
        yield from (line.replace("\r\n", "\n") for line in shuffled if line.strip())


def _all_lines(files: Sequence[Path], progress: Progress, phase: str) -> Iterator[str]:
    """All lines with their breaks."""
    total = sum(path.stat().st_size for path in files)
    done = shown = 0
    for path in files:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                done += len(raw)
                try:
                    yield raw.decode()
                except UnicodeDecodeError as error:
                    raise CorpusError(f"{path} must be UTF-8 text, line {number} is not: {error}") from error
                if done - shown >= 1 << 20 or done == total:
                    shown = done
                    progress(phase, done, total, "bytes")


def _checksum(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
