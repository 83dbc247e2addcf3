"""What an upsampling's directory says of itself: what was asked for, and which files are there."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trajmill.core.files import contents, sha256_of, write_whole
from trajmill.core.json_input import read_json

FORMAT = "trajmill-upsample-1"
FILE = "manifest.json"


@dataclass(slots=True)
class Manifest:
    """The record of a directory, ``manifest.json``."""

    format: str
    spec: Mapping[str, Any]
    """what was asked for, as JSON gives it back"""
    model_sha256: str | None = None
    """of the model's numbers"""
    shards: list[str] = field(default_factory=list)
    """SHA-256 of each that is there, up to the first one that is not"""
    exports: dict[str, str] = field(default_factory=dict)
    """hash of each export, and of what was measured, by name"""

    @classmethod
    def of(cls, directory: Path, spec: Mapping[str, Any]) -> Manifest:
        """That of a directory, or a new one; ValueError for a directory that holds something else, and for damage."""
        path = directory / FILE
        if not path.is_file():
            foreign = [each.name for each in contents(directory) if not each.name.startswith(".")]
            if foreign:
                raise ValueError(
                    f"{directory} is not empty and holds no upsampling (it holds {min(foreign)}); choose another "
                    "directory or empty it"
                )
            return cls(FORMAT, spec)
        try:
            found = read_json(path)
            if not isinstance(found, dict) or not isinstance(found.get("spec"), dict) or found["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            manifest = cls(**{key: found[key] for key in cls.__slots__})
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove {directory} and start again") from None
        if manifest.spec != {**spec, "dataset": manifest.spec.get("dataset")}:  # its name, not its content
            raise ValueError(
                f"{directory} holds other transitions: {_difference(manifest.spec, spec)}; choose another directory "
                "or remove it"
            )
        return manifest

    def write(self, directory: Path) -> None:
        """Replace what the directory says."""
        write_whole(directory / FILE, json.dumps(asdict(self), indent=1).encode())

    def has(self, export: str, path: Path) -> bool:
        """Whether an export is as it was written."""
        return path.exists() and self.exports.get(export) == hash_of(path)


def _difference(theirs: Any, ours: Any, name: str = "") -> str:
    """The first setting that differs, with both values."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        key = next(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
        return _difference(theirs.get(key), ours.get(key), f"{name}.{key}".removeprefix("."))
    return f"{name} is {reprlib.repr(theirs)} there and {reprlib.repr(ours)} here"


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of each file in a directory."""
    if path.is_file():
        return sha256_of(path)
    return " ".join(sha256_of(each) for each in sorted(path.rglob("*")) if each.is_file())
