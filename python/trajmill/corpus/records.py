"""Receipts and the manifest: signed JSON, in which no flipped bit goes unseen.

A record is written in one way only (sorted keys, one space of indentation, a newline at the end) and carries the
xxh3-128 of itself without its own hash. Reading writes it again and compares bytes, so nothing can differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from xxhash import xxh3_128_hexdigest

from trajmill.corpus.layout import Column, CorpusError, Layout, NewerFormatError, whole_number

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A finished shard: what was asked for, and the hash of every block of every column."""

    spec: dict[str, Any]
    layout: Layout
    shard: int
    blocks: dict[str, tuple[str, ...]]

    def to_bytes(self) -> bytes:
        """The file's content, a pure function of the spec."""
        columns = [{**column_record(c), "blocks": list(self.blocks[c.name])} for c in self.layout.columns]
        return sign(_head("trajmill-receipt") | {"spec": self.spec, "shard": self.shard, "columns": columns})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """The receipt in `data`; `where` names it in errors."""
        record = read_signed(data, "trajmill-receipt", where)
        spec, layout, columns = _spec_and_layout(record, where)
        shard = whole_number(f"{where}: shard", record.get("shard"), 0, layout.shard_count - 1)
        blocks = {c["name"]: _hashes(c.get("blocks"), layout.block_count(shard), where) for c in columns}
        return cls(spec=spec, layout=layout, shard=shard, blocks=blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole corpus: what was asked for, and the hash of every shard's receipt."""

    spec: dict[str, Any]
    layout: Layout
    receipts: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """What the file says."""
        columns = [column_record(column) for column in self.layout.columns]
        return _head("trajmill-corpus") | {"spec": self.spec, "columns": columns, "receipts": list(self.receipts)}

    def to_bytes(self) -> bytes:
        """The file's content, a pure function of the spec."""
        return sign(self.to_record())

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """The manifest in `data`; `where` names it in errors."""
        record = read_signed(data, "trajmill-corpus", where)
        spec, layout, _ = _spec_and_layout(record, where)
        return cls(spec=spec, layout=layout, receipts=_hashes(record.get("receipts"), layout.shard_count, where))


def receipt_name(shard: int) -> str:
    """Name of the receipt of `shard`."""
    return f"receipt-{shard:05d}.json"


def content_hash(data: bytes) -> str:
    """The xxh3-128 of a record's bytes, as the manifest quotes it."""
    return str(xxh3_128_hexdigest(data))


def column_record(column: Column) -> dict[str, Any]:
    """`column` as JSON."""
    return {"name": column.name, "dtype": column.dtype, "row_length": column.row_length}


def sign(record: Mapping[str, Any]) -> bytes:
    """The only way to write `record`, its own hash included."""
    return _canonical({**record, "hash": xxh3_128_hexdigest(_canonical(record))})


def read_signed(data: bytes, kind: str, where: str) -> dict[str, Any]:
    """The record that `sign` made `data` of; CorpusError if a bit differs, or a newer version wrote it."""
    try:
        record = json.loads(data)
        if not isinstance(record, dict) or record.get("format") != kind:
            raise ValueError(f"not a {kind}")
        version = record.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"{where} was written by a newer trajmill (format {version}, this one knows {FORMAT_VERSION}); upgrade"
            )
        content = {key: value for key, value in record.items() if key != "hash"}
        if version != FORMAT_VERSION or sign(content) != data:
            raise ValueError("its content does not match its own hash")
    except CorpusError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is damaged ({error})") from None
    return content


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"


def _head(kind: str) -> dict[str, Any]:
    return {"format": kind, "format_version": FORMAT_VERSION}


def _spec_and_layout(record: dict[str, Any], where: str) -> tuple[dict[str, Any], Layout, list[dict[str, Any]]]:
    spec, columns = record.get("spec"), record.get("columns")
    if not isinstance(spec, dict) or not isinstance(columns, list) or not all(isinstance(c, dict) for c in columns):
        raise CorpusError(f"{where} is damaged (it needs a spec and columns)")
    try:
        described = [Column(**{name: c.get(name) for name in ("name", "dtype", "row_length")}) for c in columns]
        return spec, Layout.of(spec, described), columns
    except (CorpusError, TypeError) as error:
        raise CorpusError(f"{where} is damaged ({error})") from None


def _hashes(values: object, count: int, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise CorpusError(f"{where} is damaged (it needs {count} hashes)")
    if not all(isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) for value in values):
        raise CorpusError(f"{where} is damaged (a hash is not 32 hexadecimal digits)")
    return tuple(values)
