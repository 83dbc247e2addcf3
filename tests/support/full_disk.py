"""Runs under a small file system at DIRECTORY: every writer, with less and less room; an assertion ends it.

``full_disk.py DIRECTORY KIB`` prints, by writer, at how many of the fillings there was no room.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trajmill as tm
from trajmill.core import files
from trajmill.corpus.export import FORMATS, export_corpus
from trajmill.data import load_dataset
from trajmill.data.formats import format_named, format_names
from trajmill.experiments.generate import GenerateMarkovConfig, GenerateMDPConfig, generate
from trajmill.models.gpt import GPTConfig
from trajmill.models.gpt2_files import write_gpt2
from trajmill.report import Section, write_report

FILLINGS = 6


def writers(directory: Path, sources: Path) -> dict[str, Callable[[], Any]]:
    """A call for each writer, of up to 100 kB; the file system has some more."""
    steps = load_dataset("hopper-sac-replay-10k")
    columns = {key: value[:500] for key, value in steps.to_write().items() if isinstance(value, np.ndarray)}
    pieces = [{key: columns[key] for key in ("observations", "actions", "rewards", "next_observations", "terminals")}]
    columns["timeouts"] = np.arange(500) % 100 == 99
    columns["next_observations"][:-1] = columns["observations"][1:]
    found: dict[str, Callable[[], Any]] = {}
    for name in format_names(written=True):
        out = directory / ("out-v0" if name == "minari" else f"out.{name}")
        found[name] = lambda name=name, out=out: format_named(name).write(out, **columns)
        short = [{key: value[:10] for key, value in pieces[0].items()}] if name == "minari" else pieces
        found[f"{name} pieces"] = lambda name=name, out=out, short=short: format_named(name).write_pieces(
            out, short, len(short[0]["rewards"]), metadata={}
        )
    config = GenerateMarkovConfig(sequence_count=400, length=250)
    found["corpus"] = lambda: generate(config, directory / "corpus")
    generate(config, sources / "tokens")
    generate(GenerateMDPConfig(trajectory_count=20, length=50), sources / "mdp")
    for name, kind in FORMATS.items():
        corpus = tm.open_corpus(sources / ("mdp" if name == "d4rl" else "tokens"))
        format = kind(vectors="index") if name == "d4rl" else kind()
        found[f"export {name}"] = lambda format=format, corpus=corpus: export_corpus(format, corpus, directory / "out")
    section = Section(name="x", title="x", text="x" * 50_000)
    found["report"] = lambda: write_report([], directory / "page.html", extra_sections=[section])
    buffer = tm.ReplayBuffer(1000, {"x": ((25,), "f4")})
    buffer.add(x=np.ones((1000, 25), np.float32))
    found["save"] = lambda: buffer.save(directory / "buffer")
    tensors = {name: torch.ones(500, 25) for name in ("wte.weight", "wpe.weight")}

    def export() -> None:
        with files.replacing(directory / "gpt2") as part:
            write_gpt2(part, GPTConfig(), tensors)

    found["gpt2"] = export
    found["storage"] = lambda: tm.ReplayBuffer(1000, {"x": ((25,), "f4")}, path=directory / "storage").close()
    return found


def main(directory: Path, sources: Path, kibibytes: int) -> None:
    for name, write in writers(directory, sources).items():
        full = 0
        for number in range(FILLINGS):
            for path in directory.iterdir():
                files.remove(path)
            room = 1024 * (kibibytes - 8) * (FILLINGS - 1 - number) // (FILLINGS - 1)
            (directory / "filling").write_bytes(b"x" * (1024 * (kibibytes - 8) - room))
            try:
                write()
            except (OSError, ValueError) as error:
                full += 1
                for words in (os.strerror(errno.ENOSPC), str(directory)):
                    assert words in str(error), (name, number, error)
                assert ".part" not in str(error), (name, number, error)
                left = {path.name for path in directory.iterdir()} - {"filling"}
                assert left <= ({"corpus"} if name == "corpus" else set()), (name, number, left)
        print(name, full, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
