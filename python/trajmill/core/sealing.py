"""Records and arrays that notice when a bit of them has changed: a checksum or a hash goes with them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

SEAL = "crc32"


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its checksum, an entry ``crc32`` of 8 hexadecimal digits."""
    return {**record, SEAL: _checksum(record)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its checksum; ValueError if that is of another record. Earlier versions wrote none."""
    content = {name: value for name, value in record.items() if name != SEAL}
    if SEAL in record and record[SEAL] != _checksum(content):
        raise ValueError(f"it does not fit its checksum; if it was changed on purpose, take out its entry {SEAL}")
    return content


def _checksum(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"


ARRAYS_FORMAT = "trajmill-checkpoint-2"
"""says in the header of a safetensors file that its entry ``sha256`` is the `arrays_hash` of its content"""


def arrays_hash(described: str, arrays: Iterable[tuple[str, str, tuple[int, ...], memoryview]]) -> str:
    """SHA-256 of a text and of arrays: name, type as torch calls it (``torch.float32``), shape and bytes of each."""
    found = hashlib.sha256(described.encode())
    for name, kind, shape, content in sorted(arrays, key=lambda array: array[0]):
        found.update(f"\n{name} {kind} {shape}\n".encode())
        found.update(content)
    return found.hexdigest()
