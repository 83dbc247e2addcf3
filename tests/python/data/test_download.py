"""Downloads from a server on this machine that misbehaves in every known way."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from trajmill.data import OFFICIAL_FILES, DatasetError, download, download_dataset
from trajmill.data.official import OfficialFile

CONTENT = bytes(range(256)) * 12_000  # some 3 MB
NAME = "hopper-medium-replay-v2"
FILE = "hopper_medium_replay-v2.hdf5"
MINE = OfficialFile(NAME, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), old_size=len(CONTENT) + 7)


@dataclass
class Server:
    """What it answers, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    stop_after: int | None = None
    often: int = 10**9  # how many answers stop
    drips: bool = False
    promise: int | None = None  # Content-Length
    status: int = 200
    kind: str = "application/x-hdf5"
    first: int | None = None  # of the range it sends, whatever was asked
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if first >= len(state.content):
                self.send_error(416)
                return
            self.send_response(206 if wanted and state.ranges and state.status == 200 else state.status)
            body = state.content[first:]
            if wanted and state.ranges:
                told = first if state.first is None else state.first
                self.send_header("Content-Range", f"bytes {told}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body) if state.promise is None else state.promise))
            self.send_header("Content-Type", state.kind)
            self.end_headers()
            state.often -= 1
            with suppress(OSError):  # nobody waits for what drips
                while state.drips:
                    self.wfile.write(b"x")
                    time.sleep(0.01)
                self.wfile.write(body if state.stop_after is None or state.often < 0 else body[: state.stop_after])

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setitem(OFFICIAL_FILES, NAME, MINE)
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0))
    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/{FILE}"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def fetch(directory: Path, server: Server) -> tuple[Path, list[str]]:
    said: list[str] = []
    return download_dataset(NAME, directory, say=said.append, url=server.url), said


def refused(directory: Path, server: Server) -> str:
    with pytest.raises(DatasetError) as error:
        fetch(directory, server)
    assert not (directory / FILE).exists()
    return str(error.value)


def test_a_whole_download_is_announced_and_checked(tmp_path: Path, server: Server) -> None:
    steps: list[tuple[int, int]] = []
    said: list[str] = []
    path = download_dataset(
        "hopper_medium_replay-v2.hdf5",
        tmp_path / "new",
        say=said.append,
        progress=lambda task, done, total, unit: steps.append((done, total)),
        url=server.url,
    )
    assert path == tmp_path / "new" / FILE
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [FILE]
    told = "\n".join(said)
    assert server.url in told and f"{len(CONTENT):,} bytes" in told and MINE.sha256 in told and str(path) in told
    assert steps[-1] == (len(CONTENT), len(CONTENT)) and len(steps) > 2
    _, again = fetch(path.parent, server)
    assert len(again) == 1 and f"{path} is already there" in again[0] and server.asked == [None]


def test_a_lost_connection_is_resumed(tmp_path: Path, server: Server) -> None:
    server.stop_after = 100_000
    message = refused(tmp_path, server)  # after three tries that brought little
    assert "the connection was lost" in message and f"after 300,000 of {len(CONTENT):,} bytes" in message
    assert "give the same command again" in message
    assert (tmp_path / f"{FILE}.part").read_bytes() == CONTENT[:300_000]
    server.stop_after = None
    path, _ = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_tries_that_bring_something_go_on(tmp_path: Path, server: Server) -> None:
    server.stop_after = 2**20
    path, said = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT and sum("trying again" in line for line in said) == len(CONTENT) // 2**20


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_there_survives_every_answer(kind: str, ranges: bool, tmp_path: Path, server: Server) -> None:
    """Such as a portal's page, of whatever type and length, in place of the rest."""
    part = tmp_path / f"{FILE}.part"
    part.write_bytes(CONTENT[:1_000_000])
    server.content, server.ranges, server.kind, server.promise = b"<html>log in</html>", ranges, kind, len(CONTENT)
    refused(tmp_path, server)
    assert part.read_bytes() == CONTENT[:1_000_000]


def test_a_dripping_answer_ends(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    server.drips = True
    assert "the connection was lost (TimeoutError)" in refused(tmp_path, server)
    server.drips = False


@pytest.mark.parametrize("block", [1, 4096, 2**20, 2**24])
def test_every_byte_is_on_the_disk_before_the_check(
    block: int, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems of large blocks (NFS, Lustre) have large buffers."""
    opened = Path.open

    def with_buffer(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return opened(path, mode, block if mode == "ab" and block > 1 else -1, **options)

    monkeypatch.setattr(Path, "open", with_buffer)
    path, _ = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_a_server_without_ranges_starts_afresh(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    path, said = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT
    assert "from byte 1,000" in said[-1]


def test_a_part_that_is_whole_is_only_checked(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    path, _ = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT and server.asked == []


def test_a_part_that_is_too_long_is_dropped(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT + b"x")
    path, _ = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT and server.asked == [None]


def test_a_part_beyond_what_the_server_has(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:2000])
    server.content = CONTENT[:1500]
    assert f"the server has 1,500 bytes instead of {len(CONTENT):,}" in refused(tmp_path, server)
    assert server.asked == ["bytes=2000-", None]


def test_a_damaged_part_is_found_by_its_hash_and_removed(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(bytes(1000))
    message = refused(tmp_path, server)
    assert "has SHA-256" in message and MINE.sha256 in message
    assert not list(tmp_path.iterdir())
    path, _ = fetch(tmp_path, server)
    assert path.read_bytes() == CONTENT


def test_other_bytes_of_the_same_size(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[::-1]
    assert "has SHA-256" in refused(tmp_path, server)
    assert not list(tmp_path.iterdir())


CASES: dict[str, tuple[Callable[[Server], object], str]] = {
    "a web page": (lambda s: vars(s).update(kind="text/html"), "the server answers with a web page"),
    "an error page": (lambda s: vars(s).update(status=403, kind="text/html"), "the server answers 403"),
    "the old release": (
        lambda s: vars(s).update(content=CONTENT + bytes(7)),
        "(the old release, with wrong qpos and qvel)",
    ),
    "a short file": (lambda s: vars(s).update(content=CONTENT[:-1]), "instead of 3,072,000"),
    "a false range": (lambda s: vars(s).update(first=5), "from byte 1,000"),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_that_are_not_the_file(tmp_path: Path, server: Server, case: str) -> None:
    change, fault = CASES[case]
    change(server)
    part = tmp_path / f"{FILE}.part"
    if case == "a false range":
        part.write_bytes(CONTENT[:1000])
    message = refused(tmp_path, server)
    assert fault in message
    for words in (f"fetch {server.url}", f"{len(CONTENT):,} bytes, SHA-256 {MINE.sha256}", f"at {tmp_path / FILE}"):
        assert words in message
    assert part.exists() == (case == "a false range")


def test_no_network(tmp_path: Path, server: Server) -> None:
    server.url = "http://127.0.0.1:9/" + FILE
    message = refused(tmp_path, server)
    assert "cannot reach http://127.0.0.1:9/" in message and f"at {tmp_path / FILE}" in message
    assert not list(tmp_path.iterdir())


def test_only_the_known_digits_of_a_hash_are_compared(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OFFICIAL_FILES, NAME, replace(MINE, sha256=MINE.sha256[:16]))
    _, said = fetch(tmp_path, server)
    assert any("only these digits are known" in line for line in said)


def test_a_wrong_file_at_the_target_is_not_replaced(tmp_path: Path, server: Server) -> None:
    (tmp_path / FILE).write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"has 4 bytes .*3,072,000; remove it"):
        fetch(tmp_path, server)
    assert (tmp_path / FILE).read_bytes() == b"mine" and server.asked == []


def test_two_downloads_at_once(tmp_path: Path, server: Server) -> None:
    with (
        download._locked_part(tmp_path / FILE),
        pytest.raises(DatasetError, match="another process is downloading this file"),
    ):
        fetch(tmp_path, server)


def test_a_full_disk(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert "3,072,000 bytes are missing and the disk has 10 free" in refused(tmp_path, server)
    assert server.asked == []


def test_a_place_that_cannot_be_written(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be written"):
        fetch(tmp_path / "file", server)


def test_unknown_names_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"hopper-v0: not one of D4RL's -v2 files; they are: halfcheetah-medium-v2"):
        download_dataset("hopper-v0", tmp_path, say=print)
    with pytest.raises(DatasetError, match="must start with http"):
        download_dataset("hopper-medium-v2", tmp_path, say=print, url=f"file://{tmp_path}/x")


def test_the_list_of_official_files() -> None:
    assert len(OFFICIAL_FILES) == 24
    assert sum(len(file.sha256) == 64 for file in OFFICIAL_FILES.values()) == 12
    assert len({file.size for file in OFFICIAL_FILES.values()}) == 24
    assert len({file.sha256 for file in OFFICIAL_FILES.values()}) == 24
    file = OFFICIAL_FILES["walker2d-medium-expert-v2"]
    assert file.url == (
        "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/walker2d_medium_expert-v2.hdf5"
    )
