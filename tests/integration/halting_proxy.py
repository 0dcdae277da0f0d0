"""A proxy in front of a daemon that stops at a moment which a test names.

    with halting("/var/run/docker.sock", b"DELETE /v") as proxy:
        running = project.start(...)        # it finds the daemon at proxy.path or proxy.port
        proxy.wait_for_halt()
        running.kill()

What holds the moment is passed on when the test says ``release``; if the client is gone before,
neither it nor anything else of its connection is. All other connections are passed on as they are.
"""

from __future__ import annotations

import contextlib
import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds within which the moment must come.
_LONGEST = 60.0


@dataclass
class Proxy:
    """A proxy that is running: at ``path``, and at ``port`` of the loopback address."""

    target: Path | int
    moment: bytes
    count: int
    path: Path
    port: int
    _released: tuple[socket.socket, socket.socket]
    _halted: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)

    def wait_for_halt(self) -> None:
        """Wait until the moment has come."""
        assert self._halted.wait(_LONGEST), "the moment has not come"

    def release(self) -> None:
        """Pass on what holds the moment."""
        self._released[1].close()

    def _comes(self, data: bytes) -> bool:
        """Tell whether this is the moment; it comes once."""
        with self._lock:
            self.count -= data.count(self.moment)
            if self.count > 0 or self._halted.is_set():
                return False
            self._halted.set()
            return True

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                family = socket.AF_UNIX if isinstance(self.target, Path) else socket.AF_INET
                daemon = socket.socket(family)
                self._open += [client, daemon]
                daemon.connect(
                    str(self.target)
                    if isinstance(self.target, Path)
                    else ("127.0.0.1", self.target)
                )
                for source, sink in ((client, daemon), (daemon, client)):
                    arguments = (source, sink, client)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        before = b""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._comes(before + data):
                    waiting = select.poll()
                    waiting.register(client, select.POLLRDHUP)
                    waiting.register(self._released[0], select.POLLRDHUP)
                    if client.fileno() in [number for number, _ in waiting.poll()]:
                        break
                sink.sendall(data)
                # Not so much that one and the same would count twice.
                before = (before + data)[-(len(self.moment) - 1) :]
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def halting(target: Path | int, moment: bytes, *, count: int = 1) -> Iterator[Proxy]:
    """Run a proxy for the body.

    Args:
        target: the daemon's socket, or its port on the loopback address.
        moment: bytes of either direction; when they come for the ``count``-th time it halts.
        count: as above.
    """
    with (
        tempfile.TemporaryDirectory(prefix="proxy-") as folder,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.create_server(("127.0.0.1", 0)) as by_port,
    ):
        # A path in a test's own folder would be too long for a socket.
        path = Path(folder, "socket")
        by_path.bind(str(path))
        by_path.listen()
        port = int(by_port.getsockname()[1])
        made = Proxy(target, moment, count, path, port, socket.socketpair())
        threads = [
            threading.Thread(target=made._accept, args=(one,), daemon=True)
            for one in (by_path, by_port)
        ]
        for thread in threads:
            thread.start()
        try:
            yield made
        finally:
            for one in (by_path, by_port, *made._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for one in (*made._open, *made._released):
                one.close()
