"""A TCP proxy on loopback in front of a server, for outages that are real: refused, hung, cut in the middle."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Forwards connections to `target` while it is open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self.port = target, 0
        self._flows, self._answers = threading.Event(), threading.Event()
        self.flow()
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.connections = self.cuts = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Accept connections, at the same port each time."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._listener is not None:
            _shut(self._listener)
        self._listener = None
        self.cut()

    def cut(self) -> None:
        """End every connection where it is."""
        sockets, self._sockets = self._sockets, []
        self.cuts += len(sockets)
        for each in sockets:
            _shut(each)

    def hang(self) -> None:
        """Accept, and answer nothing."""
        self._flows.clear()
        self._answers.clear()

    def hang_answers(self) -> None:
        """Send on what is asked, and not what is answered."""
        self._answers.clear()

    def flow(self) -> None:
        """Answer again."""
        self._flows.set()
        self._answers.set()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self.connections += 1
                self._sockets += [near, far]
                for one, other, open_ in ((near, far, self._flows), (far, near, self._answers)):
                    threading.Thread(target=self._pump, args=(one, other, open_), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, open_: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                open_.wait()
                other.sendall(data)
        _shut(one)
        _shut(other)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """An open proxy until the block ends."""
    host, _, port = url.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    proxy.open()
    try:
        yield proxy
    finally:
        proxy.flow()
        proxy.close()
