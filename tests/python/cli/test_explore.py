"""`trajmill explore` without a browser: what it answers, what it prints works, what it refuses, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import serving

import trajmill as tm
from trajmill.cli import main
from trajmill.cli.explorer import subjects
from trajmill.cli.explorer.server import LARGEST_BODY, MOST_CONNECTIONS, Server
from trajmill.cli.explorer.worker import Late, Worker

READING_SECONDS = 3.0
STARTS = [(kind, start) for kind, subject in subjects.subjects().items() for start in subject.starts]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(reading_seconds=READING_SECONDS, worker=Worker(seconds=60))) as server:
        yield server


@pytest.fixture(scope="module")
def forms() -> dict[str, Any]:
    return {form["kind"]: form for form in subjects.forms()["kinds"]}


def request(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; `path` stands behind the token if it does not begin with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=90)
    path = path if path.startswith(("/", "http:")) else f"/{server.token}/{path}"
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    sent: dict[str, str | None] = {"Host": f"127.0.0.1:{server.server_port}"}
    if body is not None:
        sent |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    for name, value in (sent | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def asked(server: Server, what: str, **choice: Any) -> dict[str, Any]:
    status, _, body = request(server, "POST", what, json.dumps(choice).encode())
    assert status == 200, body
    return json.loads(body)


# --- what it shows ---


def made(command: str) -> tm.CorpusSampler | Any:
    """The corpus that a command of the page writes into the working directory."""
    if given := re.fullmatch(r"cat > fields.json <<'END'\n(.*)\nEND\n(.*)", command):
        Path("fields.json").write_text(given[1])
        command = given[2]
    words = shlex.split(command)
    assert words[0] == "trajmill" and main([*words[1:], "--quiet"]) == 0
    return tm.open_corpus("corpus")


@pytest.mark.parametrize(("kind", "start"), STARTS)
def test_command_and_python_make_the_rows_that_are_shown(
    kind: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another seed, so that they have to say more than the preset."""
    monkeypatch.chdir(tmp_path)
    seen = subjects.see({"kind": kind, "start": start, "fields": {"seed": "7"}, "count": "6"})
    corpus = made(seen["command"])[:]
    columns = corpus if isinstance(corpus, dict) else {seen["columns"][0]: corpus}
    names: dict[str, Any] = {}
    exec(seen["python"], names)
    assert len(seen["python"].splitlines()) <= 10
    if kind == "mdp":
        drawn = {"states": names["data"].states, "actions": names["data"].actions}
    else:
        drawn = names.get("rows", {"tokens": names["tokens"]})
        again = names["corpus"][:]
        again = again if isinstance(again, dict) else {"tokens": again}
        assert again["tokens"].tolist() == names["tokens"].tolist()
    assert len(seen["rows"]) == subjects.ROWS
    for number, row in enumerate(seen["rows"]):
        assert row_of(columns, number) == row_of(drawn, number) == row


def row_of(columns: dict[str, Any], number: int) -> dict[str, Any]:
    return {name: np.asarray(values)[number].tolist() for name, values in columns.items()}


CHANGED: list[tuple[str, dict[str, str]]] = [
    ("markov", {"state_count": "7", "order": "2", "temperature": "inf", "initial": "uniform"}),
    ("mdp", {"state_count": "7", "action_count": "3", "start": "fixed", "transition_temperature": "0.25"}),
    ("dyck", {"max_depth": "", "balanced": "true", "paired": "false", "types": "zipf"}),
    ("cellular_automaton", {"rule": "30 90", "cells": "40", "window": "3, 20"}),
    ("cellular_automaton", {"rule": "110"}),
    ("chain_population", {"lags": "1 3", "rows": "dirichlet", "alpha": "inf"}),
    ("sequence_task", {"input_length": "3 9", "pack": "true", "task": "reverse"}),
    ("mixture", {"laws": '[{"kind": "dyck"}, {"kind": "zipf_tokens", "token_count": 9}]', "weights": "2 1"}),
    ("context_free_grammar", {"rules": '{"S": [["a S b", 0.4], ["a b", 0.6]]}', "start": "S", "terminals": ""}),
    ("neural_cellular_automaton", {"complexity": "0.1 2", "height": "4", "width": "4"}),
]


@pytest.mark.parametrize(("kind", "fields"), CHANGED)
def test_changed_fields_are_in_command_and_python(
    kind: str, fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = next(iter(subjects.subjects()[kind].starts))
    seen = subjects.see({"kind": kind, "start": start, "fields": fields, "count": "5"})
    names: dict[str, Any] = {}
    exec(seen["python"], names)
    law, spec = names.get("law") or names["mdp"], made(seen["command"]).spec
    settings = {name: subjects._plain(getattr(law, name)) for name in subjects.subjects()[kind].names}
    assert {name: spec.get(name) for name in settings} == settings


def test_the_shell_takes_the_command_as_it_is(tmp_path: Path) -> None:
    seen = subjects.see({"kind": "mixture", "start": "example", "count": "5"})
    own = seen["command"].replace("\ntrajmill", f"\n{shlex.quote(sys.executable)} -m trajmill")
    subprocess.run(["bash", "-euc", own], cwd=tmp_path, check=True, capture_output=True)
    assert row_of(tm.open_corpus(tmp_path / "corpus")[:], 0) == seen["rows"][0]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("markov", {"state_count": "20", "temperature": "0.2"}),
        ("markov", {"state_count": "5", "order": "2", "temperature": "0.1"}),
        ("markov", {"state_count": "9", "order": "0", "temperature": "0.3"}),
        (
            "mdp",
            {"state_count": "8", "action_count": "5", "policy_temperature": "0.3", "transition_temperature": "0.2"},
        ),
    ],
)
def test_the_entropy_rate_is_the_mean_loss_of_long_rows(kind: str, fields: dict[str, str]) -> None:
    seen = subjects.see({"kind": kind, "fields": fields, "length": "1000"})
    means = [told["mean"] for told in seen["predicted"]["columns"].values()]
    exact = list(seen["exact"].values())
    assert len(exact) == len(means) == (2 if kind == "mdp" else 1)
    assert sorted(exact) == pytest.approx(sorted(means), rel=0.01)
    assert max(exact) < 0.95 * np.log(int(fields["state_count"]))


def test_what_the_best_predictor_expects_is_a_law_at_every_place() -> None:
    law = tm.Dyck(pairs=3, max_depth=4)
    told = subjects.see({"kind": "dyck", "fields": {"pairs": "3", "max_depth": "4"}})["predicted"]["columns"]["tokens"]
    assert np.sum(told["heat"], axis=1) == pytest.approx(np.ones(64), abs=1e-3)
    assert told["seen"] == law.sample(1, 64)[0].tolist()
    assert told["heat"][9] == pytest.approx(law.predictive(told["seen"][:9]), abs=1e-5)
    assert told["curve"] == pytest.approx(law.losses(law.sample(256, 64)).mean(0), abs=1e-5)
    wide = subjects.see({"kind": "zipf_tokens", "fields": {"token_count": "1000"}})["predicted"]["columns"]["tokens"]
    assert len(wide["heat"][0]) <= subjects.BANDS and np.sum(wide["heat"], axis=1) == pytest.approx(np.ones(64), 1e-3)


def test_forms_have_every_field_of_every_law(server: Server) -> None:
    status, _, body = request(server, "GET", "forms")
    assert status == 200
    kinds = {form["kind"]: form for form in json.loads(body)["kinds"]}
    assert set(kinds) == {"markov", "mdp", *tm.laws.names()}  # type: ignore[attr-defined]
    for kind, form in kinds.items():
        assert {field["name"] for field in form["fields"]} == set(subjects.subjects()[kind].names)
        assert all(field["about"] for field in form["fields"]) and form["about"]
        for texts in form["starts"].values():
            assert all(text is None or len(text) <= subjects.LONGEST_TEXT for text in texts.values())
    types = next(field for field in kinds["dyck"]["fields"] if field["name"] == "types")
    assert types["choices"] == ["uniform", "zipf"]


@pytest.mark.parametrize(("kind", "start"), STARTS)
def test_texts_of_a_form_mean_its_start(kind: str, start: str, forms: dict[str, Any]) -> None:
    form = forms[kind]
    texts = {name: text for name, text in form["starts"][start].items() if text is not None}
    chosen = subjects._chosen({"kind": kind, "start": start, "fields": texts})
    assert chosen.changes == {}


# --- what it refuses ---

REFUSED: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("dyck", {"fields": {"pairs": "0"}}, "pairs must be between 1 and 32768, got 0", "pairs"),
    ("dyck", {"fields": {"pairs": "9" * 5000}}, "pairs must be an integer", "pairs"),
    ("dyck", {"fields": {"pairs": "NaN"}}, "pairs must be an integer, got nan", "pairs"),
    (
        "dyck",
        {"fields": {"open_probability": "1e999"}},
        "open_probability must be in (0, 1), got inf",
        "open_probability",
    ),
    ("dyck", {"fields": {"max_depth": "[" * 50_000}}, "max_depth must be an integer", "max_depth"),
    ("dyck", {"fields": {"max_depth": '{"a": {}}'}}, "max_depth must be an integer", "max_depth"),
    ("dyck", {"fields": {"balanced": "true"}, "length": "7"}, "length of balanced rows must be even", "length"),
    ("dyck", {"length": "100000"}, "length must be between 1 and 1024", "length"),
    ("dyck", {"length": "1e3"}, "length must be a whole number", "length"),
    ("dyck", {"first": "-1"}, "first must be a whole number", "first"),
    ("dyck", {"fields": {"colour": "1"}}, "dyck has no field 'colour'", None),
    ("dyck", {"start": "nobody1999"}, "there is no preset 'nobody1999'", "start"),
    ("../../etc/passwd", {}, "there is no law of kind '../../etc/passwd'", "kind"),
    ("markov", {"fields": {"temperature": "nan"}}, "temperature must be", "temperature"),
    ("markov", {"fields": {"state_count": "4294967295", "backend": "dense"}}, "dense table", "backend"),
    ("mixture", {"start": "example", "fields": {"laws": '[{"kind": "x"}]'}}, "there is no law of kind 'x'", "laws"),
]


@pytest.mark.parametrize(("kind", "choice", "message", "field"), REFUSED)
def test_bad_parameters_are_refused_beside_their_field(
    kind: str, choice: dict[str, Any], message: str, field: str | None, server: Server
) -> None:
    told = asked(server, "see", kind=kind, **choice)
    assert message in told["error"] and told["field"] == field
    assert len(told["error"]) < 500
    assert asked(server, "rate", kind=kind, **choice) == told


TOKEN = "{token}"
HOSTILE: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/", {}, 403),
    ("GET", "/wrong/", {}, 403),
    ("GET", f"/{TOKEN}", {}, 404),
    ("GET", f"/{TOKEN}x/", {}, 403),
    ("GET", "/%C3%A9/", {}, 403),
    ("GET", f"/{TOKEN}/../../../etc/passwd", {}, 404),
    ("GET", f"/{TOKEN}/%2e%2e/server.py", {}, 404),
    ("GET", f"/{TOKEN}/server.py", {}, 404),
    ("GET", f"/{TOKEN}//etc/passwd", {}, 404),
    ("GET", f"http://elsewhere/{TOKEN}/", {}, 403),
    ("GET", f"/{TOKEN}/" + "a" * 2000, {}, 414),
    ("GET", f"/{TOKEN}/", {"Host": "evil.example"}, 421),
    ("GET", f"/{TOKEN}/", {"Host": "127.0.0.1:1"}, 421),
    ("GET", f"/{TOKEN}/", {"Host": None}, 421),
    ("GET", f"/{TOKEN}/", {"Origin": "https://evil.example"}, 403),
    ("GET", f"/{TOKEN}/", {"X": "a" * 20_000}, 431),
    ("GET", f"/{TOKEN}/", {f"X{n}": "1" for n in range(200)}, 431),
    ("GET", f"/{TOKEN}/see", {}, 404),
    ("PUT", f"/{TOKEN}/", {}, 501),
    ("POST", f"/{TOKEN}/", {"body": b"{}"}, 404),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Origin": "null"}, 403),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Content-Type": "text/plain"}, 415),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Content-Length": None}, 411),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Transfer-Encoding": "chunked"}, 411),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Content-Length": "-1"}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b"{}", "Content-Length": "9" * 5000}, 413),
    ("POST", f"/{TOKEN}/see", {"body": b'"' + b"a" * LARGEST_BODY + b'"'}, 413),
    ("POST", f"/{TOKEN}/see", {"body": b"[" * 50_000}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b"\xff\xfe{}"}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b"{"}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"length": NaN}'}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"length": ' + b"9" * 5000 + b"}"}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"length": 64}'}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"kind": "dyck", "fields": {"pairs": {}}}'}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"kind": "dyck", "fields": []}'}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b'{"kind": "dyck", "out": "/tmp/x"}'}, 400),
    ("POST", f"/{TOKEN}/see", {"body": b"[1]"}, 400),
]


@pytest.mark.parametrize(("method", "path", "rest", "status"), HOSTILE)
def test_hostile_requests_get_a_status_and_words(
    method: str, path: str, rest: dict[str, Any], status: int, server: Server
) -> None:
    told, headers, body = request(server, method, path.replace(TOKEN, server.token), **rest)
    assert told == status, body
    assert headers["Content-Type"] == "application/json" and json.loads(body)["error"]
    assert server.token.encode() not in body and b"Traceback" not in body


def test_pages_have_strict_headers(server: Server) -> None:
    for path, kind in (("", "text/html"), ("page.js", "text/javascript"), ("page.css", "text/css")):
        status, headers, body = request(server, "GET", path)
        assert status == 200 and body and headers["Content-Type"].startswith(kind)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] == "trajmill"
        assert request(server, "HEAD", path)[2] == b""
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", body)


def sent(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(
    "start",
    [
        "GET /{token}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n",
        "POST /{token}/see HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        'Content-Length: 50\r\n\r\n{{"kind"',
        "GET /half",
    ],
)
def test_slow_clients_are_given_up(start: str, server: Server) -> None:
    started = time.monotonic()
    answer = sent(server, start.format(token=server.token, port=server.server_port).encode())
    assert b" 408 " in answer.splitlines()[0]
    assert READING_SECONDS * 0.9 < time.monotonic() - started < 60


def test_drops_at_long_intervals_do_not_hold_a_connection(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        started = time.monotonic()
        try:
            while time.monotonic() - started < 60:
                client.sendall(b"X")
                time.sleep(0.2)
        except OSError:
            pass
        assert time.monotonic() - started < 60


def test_no_more_connections_than_there_are_places() -> None:
    with serving(Server(reading_seconds=30)) as server:
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(MOST_CONNECTIONS)]
        until = time.monotonic() + 30
        while server._places._value and time.monotonic() < until:
            time.sleep(0.05)
        with suppress(ConnectionResetError):  # where what was sent was not read
            assert b" 503 " in sent(server, b"GET / HTTP/1.1\r\n\r\n")
        for each in idle:
            each.close()
        until = time.monotonic() + 30
        while server._places._value < MOST_CONNECTIONS and time.monotonic() < until:
            time.sleep(0.05)
        assert request(server, "GET", "")[0] == 200


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert len(server.token) >= 32
    with serving(Server()) as other:
        assert other.token != server.token


# --- limits of the worker ---


def test_a_law_that_takes_too_long_is_refused_and_the_next_one_is_shown() -> None:
    worker = Worker(seconds=0.05)
    try:
        worker._start()
        with pytest.raises(Late, match=r"takes more than 0\.05 s"):
            worker.ask("rate", {"kind": "dyck"})
        worker._seconds = 60
        assert worker.ask("see", {"kind": "dyck"})["vocabulary"] == 128
    finally:
        worker.close()


def test_a_law_that_takes_too_much_memory_is_refused_in_words() -> None:
    worker = Worker(seconds=60, memory=2 * 2**30)
    try:
        told = worker.ask("see", {"kind": "markov", "fields": {"state_count": "30000", "backend": "dense"}})
        assert "more" in told["error"] and "GiB" in told["error"]
        assert worker.ask("see", {"kind": "dyck"})["vocabulary"] == 128
    finally:
        worker.close()


def test_a_worker_that_was_killed_is_started_again() -> None:
    worker = Worker(seconds=60)
    try:
        assert worker.ask("see", {"kind": "dyck"})["vocabulary"] == 128
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        with pytest.raises(RuntimeError, match="has ended"):
            worker.ask("see", {"kind": "dyck"})
        assert worker.ask("see", {"kind": "dyck"})["vocabulary"] == 128
    finally:
        worker.close()


# --- the command ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_prints_its_address_and_ends_cleanly(number: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "trajmill", "explore", "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        line = process.stderr.readline()
        found = re.fullmatch(
            r"trajmill: the page is at http://127\.0\.0\.1:(\d+)/([\w-]{32})/ \(Ctrl-C ends it\)\n", line
        )
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=90)
        connection.request("GET", f"/{found[2]}/forms")
        assert connection.getresponse().status == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert out == "the page is no longer served\n"


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    assert main(["explore", "--no-browser", "--port", str(server.server_port)]) == 1
    assert f"port {server.server_port} cannot be used" in capsys.readouterr().err
    assert main(["explore", "--no-browser", "--port", "70000"]) == 1
    assert "port must be between 0 and 65535" in capsys.readouterr().err
