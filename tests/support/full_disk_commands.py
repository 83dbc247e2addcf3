"""Runs under a small file system at DIRECTORY: every command that writes, with too little room; an assertion ends it.

``full_disk_commands.py DIRECTORY SOURCES PART/PARTS`` takes every PARTS-th command from number PART on, and prints
with how many sizes of room it was tried. Each must end with exit code 1 and one message that names a place on the disk,
leave what was there and nothing half-written, and end as if nothing had been if it is given again with room.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import trajmill.experiments.train  # noqa: F401  once for all processes
from trajmill.cli import main as command
from trajmill.core.files import PART_SUFFIX, remove
from trajmill.corpus.export import FORMATS

HOPPER = "hopper-sac-replay-10k"
PAGE = 4096
TINY = (
    "--schedule.updates 6 --schedule.log-interval 2 --schedule.evaluation-interval 3 --schedule.checkpoint-interval 2"
)
TRAIN = f"{TINY} --compute.device cpu --processes 1"
BACKBONE = "--method.backbone.layer-count 1 --method.backbone.width 16"
LANGUAGE = (
    f"train language_model {TRAIN} {BACKBONE} --method.batch-size 4 --method.length 12 --method.sequence-count 4100"
)
MODEL = "--method.width 16 --method.depth 1 --method.embedding-dim 8 --method.batch-size 8 --levels 3"
UPSAMPLE = f"upsample {HOPPER} --count 200 {TINY} --compute.device cpu {MODEL} --export d4rl synther minari --out"
VARYING = {".json", ".jsonl", ".safetensors", ".html"}
"""ends of names of files that say when they were written"""


@dataclass(frozen=True, slots=True)
class Case:
    """A command, as words; ``@`` begins what is on the disk, ``%`` what is beside it."""

    words: str
    out: str
    """what it makes"""
    there: str = ""
    """what is at `out` before, and is to stay if the command fails"""
    again: str = ""
    """added when the command is given again"""
    goes_on: bool = False
    """a part of what it makes may stay, from where it goes on"""
    kept: str = ""
    """another file that it makes, which may stay"""
    rooms: Sequence[float] = field(default=(0.0, 0.3, 0.6, 0.97))
    """shares of what it needs"""


def cases() -> dict[str, Case]:
    """Every command that writes, by a name."""
    run = f"--dataset {HOPPER} {TRAIN} --evaluation-episode-count 1 --method.hidden-sizes 32 32"
    few = (0.0, 0.4, 0.8)
    found = {
        "generate markov": Case("generate markov --sequence-count 400 --length 250 --out @c", "c", goes_on=True),
        "generate mdp": Case("generate mdp --trajectory-count 200 --length 100 --out @c", "c", goes_on=True),
        "collect": Case("collect hopper --kind random --rows 1000 --out @x.hdf5", "x.hdf5"),
        "collect --train": Case(
            "collect hopper --rows 300 --train --target-return 1 --policies @p.hdf5 --out @x.hdf5",
            "x.hdf5",
            kept="p.hdf5",
            rooms=few,
        ),
        "convert": Case(f"dataset convert {HOPPER} @x.hdf5 --overwrite --subset first:900", "x.hdf5", "%old.hdf5"),
        "convert npz": Case(f"dataset convert {HOPPER} @x.npz --overwrite --subset first:900", "x.npz", "%old.npz"),
        "convert minari": Case(f"dataset convert {HOPPER} @hopper-x-v0 --to minari --subset first:900", "hopper-x-v0"),
        "upsample": Case(f"{UPSAMPLE} @u", "u", goes_on=True),
        "train": Case(f"train td3_bc {run} --out @r", "r", again="--resume", goes_on=True),
        "train in processes": Case(
            f"train td3_bc {run} --seeds 0 1 --processes 2 --out @r",
            "r",
            again="--resume",
            goes_on=True,
            rooms=(0.0, 0.6),
        ),
        "pre-train": Case(f"{LANGUAGE} --out @r", "r", again="--resume", goes_on=True),
        "report": Case("report %run --out @page.html", "page.html", "%old.html"),
        "quality": Case(f"quality {HOPPER} {HOPPER} --rows 500 --out @page.html", "page.html", "%old.html", rooms=few),
        "export": Case("export %tokens_run @gpt2", "gpt2"),
        "reproduce": Case(
            f"reproduce a-table-1 --quick --update-share 0.02 --datasets {HOPPER} --processes 1 --compute.device cpu "
            "--out @s",
            "s",
            goes_on=True,
            rooms=few,
        ),
        "corpus merge": Case("corpus merge @c", "c", "%parts", rooms=(0.0,)),
    }
    for name in FORMATS:
        source, options = ("%mdp", " --vectors index") if name == "d4rl" else ("%tokens", "")
        found[f"corpus export {name}"] = Case(
            f"corpus export {name} {source} @e --overwrite{options}", "e", f"%old_{name}", rooms=few
        )
    return found


def prepare(sources: Path) -> None:
    """What the commands read, and what they replace."""
    for words in (
        f"dataset convert {HOPPER} %old.hdf5 --subset first:50",
        f"dataset convert {HOPPER} %old.npz --subset first:50",
        "generate markov --sequence-count 400 --length 250 --out %tokens",
        "generate mdp --trajectory-count 20 --length 50 --out %mdp",
        f"train td3_bc --dataset {HOPPER} {TRAIN} --evaluation-episode-count 1 --method.hidden-sizes 32 32 --out %run",
        f"{LANGUAGE} --out %tokens_run",
        "report %run --out %old.html",
        "generate markov --sequence-count 40 --length 50 --out %few",
        "generate mdp --trajectory-count 4 --length 5 --out %few_mdp",
        *(f"corpus export {name} %few %old_{name}" for name in FORMATS if name != "d4rl"),
        "corpus export d4rl %few_mdp %old_d4rl --vectors index",
    ):
        code, message = given(words, sources, sources)
        assert code == 0, (words, message)
    shutil.copytree(sources / "tokens", sources / "parts", ignore=shutil.ignore_patterns("manifest.json"))


def given(words: str, disk: Path, sources: Path) -> tuple[int, str]:
    """Give a command in a process of its own: its exit code, and what it said on standard error."""
    told = sources / "stderr"
    process = os.fork()
    if process == 0:
        code = 70
        try:
            log = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = command([_placed(word, disk, sources) for word in words.split()] + ["--quiet"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), told.read_text()


def _placed(word: str, disk: Path, sources: Path) -> str:
    places = {"@": disk, "%": sources}
    return str(places[word[0]] / word[1:]) if word[0] in places else word


def content(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "filling"]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the bytes of files that differ from time to time."""
    return {name: b"" if Path(name).suffix in VARYING else data for name, data in files.items()}


def reset(disk: Path, case: Case, sources: Path) -> dict[str, bytes]:
    """The disk as it is before a command."""
    for path in disk.iterdir():
        remove(path)
    (disk / "other").write_text("of somebody else")
    if case.there:
        source = sources / case.there[1:]
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, disk / case.out)
    return content(disk)


def free(disk: Path) -> int:
    """Bytes that are free."""
    known = os.statvfs(disk)
    return known.f_bavail * known.f_frsize


def check(name: str, case: Case, disk: Path, sources: Path) -> int:
    """Try a command with less room than it needs."""
    before = reset(disk, case, sources)
    start = free(disk)
    code, message = given(case.words, disk, sources)
    assert code == 0, (name, message)
    whole, needed = content(disk), start - free(disk)
    for share in case.rooms:
        reset(disk, case, sources)
        room = int(needed * share) // PAGE * PAGE
        (disk / "filling").write_bytes(b"x" * (free(disk) - room))
        code, message = given(case.words, disk, sources)
        place = (name, share, room, code, message)
        said = [line for line in message.splitlines() if not line.startswith("trajmill: warning: ")]
        assert code == 1 and len(said) == 1, place
        assert os.strerror(errno.ENOSPC) in said[0], place
        assert str(disk) in said[0], place
        left = content(disk)
        assert {path: left.get(path) for path in before} == before, (*place, "what was there has changed")
        made = left.keys() - before.keys() - {case.kept}
        assert not [path for path in disk.rglob(f"*{PART_SUFFIX}") if path.is_file()], (*place, sorted(made))
        assert not made or (case.goes_on and all(path.startswith(f"{case.out}/") for path in made)), (*place, made)
        (disk / "filling").unlink()
        again = f"{case.words} {case.again}" if (disk / case.out).exists() and not case.there else case.words
        code, message = given(again, disk, sources)
        assert code == 0, (*place, "again", code, message)
        assert lasting(content(disk)) == lasting(whole), (*place, content(disk).keys() ^ whole.keys())
    return len(case.rooms)


def main(disk: Path, sources: Path, part: int, parts: int) -> None:
    prepare(sources)
    shutil.disk_usage = lambda place: SimpleNamespace(free=2**60)  # what is free as a command looks is soon taken
    faults = []
    for name, case in list(cases().items())[part::parts]:
        try:
            print(name, check(name, case, disk, sources), flush=True)
        except AssertionError as error:
            faults.append(error)
    assert not faults, "\n".join(map(str, faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3].split("/")))
