"""Receipts and the manifest: signed JSON, in which every flipped bit is noticed.

A record is written in one way only (sorted keys, one space of indentation, a newline at the end) and carries the
xxh3-128 of itself without its own hash. Reading writes it again and compares the bytes, so nothing can differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.core.json_input import parse_json
from trajmill.corpus.errors import CorpusError, NewerFormatError, library
from trajmill.corpus.layout import Layout

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A finished shard: the spec of its corpus, and the hash of every block of every column."""

    spec: dict[str, Any]
    layout: Layout
    shard: int
    blocks: dict[str, tuple[str, ...]]

    def to_bytes(self) -> bytes:
        """The file's content, a pure function of the spec."""
        columns = [asdict(column) | {"blocks": list(self.blocks[column.name])} for column in self.layout.columns]
        return sign(_head("trajmill-receipt") | {"spec": self.spec, "shard": self.shard, "columns": columns})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """The receipt in `data`; CorpusError that names `where` if a bit differs or a newer version wrote it."""
        with _parsed(data, "trajmill-receipt", where) as (record, layout):
            shard = checks.integer("shard", record["shard"], 0, layout.shard_count - 1)
            blocks = {c["name"]: _hashes(c["blocks"], layout.block_count(shard)) for c in record["columns"]}
            return cls(spec=record["spec"], layout=layout, shard=shard, blocks=blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole corpus: its spec, and the hash of every shard's receipt."""

    spec: dict[str, Any]
    layout: Layout
    receipts: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The file's content, a pure function of the spec."""
        columns = [asdict(column) for column in self.layout.columns]
        record = {"spec": self.spec, "columns": columns, "receipts": list(self.receipts)}
        return sign(_head("trajmill-corpus") | record)

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """The manifest in `data`; CorpusError that names `where` if a bit differs or a newer version wrote it."""
        with _parsed(data, "trajmill-corpus", where) as (record, layout):
            receipts = _hashes(record["receipts"], layout.shard_count)
            return cls(spec=record["spec"], layout=layout, receipts=receipts)


def receipt_name(shard: int) -> str:
    """Name of the receipt of `shard`."""
    return f"receipt-{shard:05d}.json"


def content_hash(data: bytes | memoryview) -> str:
    """The xxh3-128 of a block or a record, 32 hexadecimal digits."""
    return str(library("xxhash", "a stored corpus", "corpus").xxh3_128_hexdigest(data))


def sign(record: Mapping[str, Any]) -> bytes:
    """The only way to write `record`, its own hash included."""
    return _canonical({**record, "hash": content_hash(_canonical(record))})


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"


def _head(kind: str) -> dict[str, Any]:
    return {"format": kind, "format_version": FORMAT_VERSION}


@contextmanager
def _parsed(data: bytes, kind: str, where: str) -> Iterator[tuple[dict[str, Any], Layout]]:
    """The record in `data`, as `sign` writes it, and its layout; errors, also in the block, become CorpusErrors."""
    try:
        record = parse_json(data)
        if not isinstance(record, dict) or record.get("format") != kind:
            raise ValueError(f"not a {kind}")
        version = record.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"{where} was written by a newer trajmill (format {version}, this one knows {FORMAT_VERSION}); upgrade"
            )
        record.pop("hash", None)
        if version != FORMAT_VERSION or sign(record) != data:
            raise ValueError("its content does not match its own hash")
        columns = [Column(name=c["name"], dtype=c["dtype"], row_length=c["row_length"]) for c in record["columns"]]
        yield record, Layout.of(record["spec"], columns)
    except CorpusError:
        raise
    except KeyError as error:
        raise CorpusError(f"{where} is damaged ({error} is missing)") from None
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{where} is damaged ({error})") from None


def _hashes(values: object, count: int) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"it needs {count} hashes")
    if not all(isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) for value in values):
        raise ValueError("a hash is not 32 hexadecimal digits")
    return tuple(values)
