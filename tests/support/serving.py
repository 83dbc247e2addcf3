"""The server of `trajmill explore`, which answers in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trajmill.cli.explorer.server import Server


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Let the server answer until the end of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
