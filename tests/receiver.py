"""A receiver of webhooks: a real HTTP server on loopback that keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Receiver:
    """answers: statuses to give, then 204. delay: seconds before each. got: path, headers (lower case) and body."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    delay: float = 0.0
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver until the block ends."""
    state, released = Receiver(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            released.wait(state.delay)
            self.send_response(state.answers.pop(0) if state.answers else 204)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield state
    finally:
        released.set()
        server.shutdown()
        server.server_close()
