"""A server for one person: on this machine alone, behind a random token, and without files.

What it answers with was read when it started, or is computed by `worker`. No path of a request ever reaches the disk.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import threading
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import Any

from trajmill.cli.explorer.worker import Late, Worker
from trajmill.core.json_input import parse_json

HOST = "127.0.0.1"
LONGEST_ADDRESS = 1024
LARGEST_HEADERS = 16_384
LARGEST_BODY = 65_536
"""bytes"""
READING_SECONDS = 10.0
"""time that a client has to send its request"""
TEXTS = ("kind", "start", "length", "first", "count")
"""what a choice of a law says beside its fields"""
MOST_CONNECTIONS = 32
"""requests that are read or answered at a time"""
PAGES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Fault(Exception):
    """A request that is refused."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves the page at `address`; a context manager that ends its worker too."""

    daemon_threads = True

    def __init__(self, port: int = 0, worker: Worker | None = None, reading_seconds: float = READING_SECONDS) -> None:
        self.token = secrets.token_urlsafe(24)
        self.worker = worker or Worker()
        self.reading_seconds = reading_seconds
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """Of the page, with the token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def server_bind(self) -> None:
        """Bind, without asking for the name of this machine."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there are not too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See `process_request`."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def server_close(self) -> None:
        """Close the socket, and end the worker."""
        super().server_close()
        self.worker.close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    late = False

    def setup(self) -> None:
        self.request.settimeout(self.server.reading_seconds * 3)  # of each read or write; all reads have this deadline:
        self._deadline = threading.Timer(self.server.reading_seconds, self._end_of_reading)
        self._deadline.daemon = True
        self._deadline.start()
        super().setup()

    def _end_of_reading(self) -> None:
        self.late = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def do_GET(self) -> None:
        self._answer(self._page)

    def do_HEAD(self) -> None:
        self._answer(self._page)

    def do_POST(self) -> None:
        self._answer(self._computed)

    def _answer(self, answer: Any) -> None:
        try:
            status, kind, body = answer(self._wanted())
        except _Fault as fault:
            return self.send_error(fault.status, str(fault))
        self._send(status, kind, body)

    def _wanted(self) -> str:
        """The path behind the token, of a request that may be answered."""
        if self.late:
            raise _Fault(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
        if len(self.path) > LONGEST_ADDRESS:
            raise _Fault(HTTPStatus.REQUEST_URI_TOO_LONG, f"addresses have up to {LONGEST_ADDRESS:,} characters")
        if sum(len(name) + len(value) for name, value in self.headers.items()) > LARGEST_HEADERS:
            raise _Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"headers have up to {LARGEST_HEADERS:,} bytes")
        ours = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in ours:  # a name that someone else has led to this machine
            raise _Fault(HTTPStatus.MISDIRECTED_REQUEST, f"the host of this page is {ours[0]}")
        origins = self.headers.get_all("Origin", [])
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise _Fault(HTTPStatus.FORBIDDEN, "another page may not ask this one")
        token, slash, wanted = self.path[1:].partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            told = (
                "the token in the address is not that of this server: take the address that `trajmill explore` printed"
            )
            raise _Fault(HTTPStatus.FORBIDDEN, told)
        if not slash:
            raise _Fault(HTTPStatus.NOT_FOUND, "there is no such page")
        return wanted

    def _page(self, wanted: str) -> tuple[HTTPStatus, str, bytes]:
        if wanted == "forms":
            return self._asked("forms", None)
        if wanted not in pages():
            raise _Fault(HTTPStatus.NOT_FOUND, "there is no such page")
        kind, body = pages()[wanted]
        return HTTPStatus.OK, kind, body

    def _computed(self, wanted: str) -> tuple[HTTPStatus, str, bytes]:
        if wanted not in ("see", "rate"):
            raise _Fault(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.headers.get_content_type() != "application/json":
            raise _Fault(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or "Transfer-Encoding" in self.headers:
            raise _Fault(HTTPStatus.LENGTH_REQUIRED, "the request needs one Content-Length")
        if not (lengths[0].isascii() and lengths[0].isdecimal()):
            raise _Fault(HTTPStatus.BAD_REQUEST, "Content-Length must be a whole number")
        if len(lengths[0]) > 9 or int(lengths[0]) > LARGEST_BODY:
            raise _Fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"bodies have up to {LARGEST_BODY:,} bytes")
        body = self.rfile.read(int(lengths[0]))
        if len(body) < int(lengths[0]):
            raise _Fault(HTTPStatus.REQUEST_TIMEOUT, "the body did not come whole and in time")
        try:
            asked = parse_json(body, LARGEST_BODY)
        except ValueError:
            raise _Fault(HTTPStatus.BAD_REQUEST, "the body is not JSON that is understood here") from None
        if not _is_choice(asked):
            told = (
                f"the body must be an object with some of the texts {', '.join(TEXTS)}, and fields, an object of texts"
            )
            raise _Fault(HTTPStatus.BAD_REQUEST, told)
        return self._asked(wanted, asked)

    def _asked(self, what: str, asked: Any) -> tuple[HTTPStatus, str, bytes]:
        self._deadline.cancel()
        try:
            answer = self.server.worker.ask(what, asked)
        except Late as error:
            raise _Fault(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        except RuntimeError as error:
            raise _Fault(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None
        return HTTPStatus.OK, "application/json", json.dumps(answer).encode()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse, with words as JSON."""
        status = HTTPStatus.REQUEST_TIMEOUT if self.late else HTTPStatus(code)
        self._send(status, "application/json", json.dumps({"error": message or status.phrase, "field": None}).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.request_version = "HTTP/1.0"  # also to a request of version 0.9, which would get no status
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """No word of the versions of anything."""
        return "trajmill"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


@cache
def pages() -> dict[str, tuple[str, bytes]]:
    """Type and content of every page, read once."""
    return {path: (kind, (files(__package__) / name).read_bytes()) for path, (name, kind) in PAGES.items()}


def _is_choice(asked: Any) -> bool:
    if not isinstance(asked, dict) or not isinstance(fields := asked.get("fields", {}), dict):
        return False
    texts = {name: text for name, text in asked.items() if name != "fields"}
    return set(texts) <= set(TEXTS) and all(isinstance(text, str) for text in [*texts.values(), *fields.values()])
