"""Look at laws in the browser: choose one and its parameters, see what it draws, and take the command that makes it.

The page is served to this machine alone, at an address with a random token, and asks nobody else for anything. Ctrl-C
ends it.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass

from trajmill.cli.explorer.server import Server
from trajmill.cli.session import Outcome
from trajmill.core import checks
from trajmill.core.progress import Progress

EXAMPLES = """
  trajmill explore
  trajmill explore --port 8000 --no-browser
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explore:
    """Serve the page."""

    port: int = 0
    """port on 127.0.0.1; 0: a free one"""
    no_browser: bool = False
    """print the address, and open no browser"""

    def run(self, progress: Progress) -> Outcome:
        port = checks.integer("port", self.port, 0, 65535)
        try:
            server = Server(port)
        except OSError as error:
            raise OSError(
                f"port {port} cannot be used ({error.strerror}); without --port a free one is taken"
            ) from None
        with server:
            print(f"trajmill: the page is at {server.address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            if not self.no_browser and {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt as stop:
                if hasattr(stop, "signal"):  # not Ctrl-C, with which people end it
                    raise
        return Outcome({"address": server.address}, "the page is no longer served")


COMMANDS = {"": Explore}
