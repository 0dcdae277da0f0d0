"""A real HTTP server of files that misbehaves as a test says, and remembers what it was asked.

    with serving() as server:
        url = server.put("/a.tar", b"...", Trick(cut=1000), Trick(status=503))

The first request for the file is cut off, the second gets 503, all others are answered well.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.server
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.registry import free_port

#: Seconds after which the server lets go of whatever a test holds: a test that fails ends, too.
_LONGEST = 60.0


@dataclass(frozen=True)
class Trick:
    """How one request is answered otherwise than well.

    Args:
        status: answer with it, and with no file.
        headers: add these, or take them away with None.
        content: send these bytes in place of the file's; they have another ETag.
        length: say this as Content-Length, whatever is sent.
        framing: "length"; "chunked"; or "close", where the end of the connection is the end.
        cut: close the connection after so many bytes of the body, as if it broke.
        hold: after so many bytes of the body wait until the test calls ``release``.
        drip: seconds between the bytes of the body, one at a time.
        drip_head: the same for the head.
        ranges: False ignores Range.
        content_range: say this in place of the right Content-Range.
        heed_if: False ignores If-Range.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    content: bytes | None = None
    length: int | None = None
    framing: str = "length"
    cut: int | None = None
    hold: int | None = None
    drip: float = 0.0
    drip_head: float = 0.0
    ranges: bool = True
    content_range: str | None = None
    heed_if: bool = True


@dataclass
class Entry:
    """A file of the server: its bytes, the tricks that are left, and how it is answered after."""

    content: bytes
    tricks: list[Trick] = field(default_factory=list)
    usual: Trick = field(default_factory=Trick)


@dataclass(frozen=True)
class Seen:
    """A request that came: its target and its headers, with names in lower case."""

    path: str
    headers: Mapping[str, str]


@dataclass
class FileServer:
    """A server that is running; ``url`` is where, without a slash at its end."""

    url: str
    entries: dict[str, Entry] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    holding: threading.Event = field(default_factory=threading.Event)
    expired: bool = False
    _released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, content: bytes, *tricks: Trick, usual: Trick | None = None) -> str:
        """Offer a file, or change one, and return its URL.

        Args:
            path: begins with a slash, or is a whole URL where the server is used as a proxy.
            content: the file.
            tricks: how the first requests are answered, in order.
            usual: how all others are; well, if it is not given.
        """
        self.entries[path] = Entry(content, list(tricks), usual or Trick())
        return self.url + path

    def redirect(self, path: str, target: str, *, status: int = 302) -> str:
        """Lead from a path elsewhere, and return its URL."""
        return self.put(path, b"", usual=Trick(status=status, headers={"Location": target}))

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range header of each request for a path, in their order."""
        return [seen.headers.get("range") for seen in self.seen if seen.path == path]

    def wait_for_hold(self) -> None:
        """Wait until a request is being held."""
        assert self.holding.wait(_LONGEST), "no request came to where it is held"

    def release(self) -> None:
        """Let all that is held go on, and hold nothing more."""
        self._released.set()

    def _answer(self, seen: Seen) -> tuple[Entry, Trick] | None:
        with self._lock:
            self.seen.append(seen)
            entry = self.entries.get(seen.path.partition("?")[0])
            if entry is None:
                return None
            return entry, entry.tricks.pop(0) if entry.tricks else entry.usual

    def _hold(self) -> None:
        self.holding.set()
        if not self._released.wait(_LONGEST):
            self.expired = True


def etag(content: bytes) -> str:
    """Return the strong ETag that the server gives to a file."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@contextlib.contextmanager
def serving(*, tls: Path | None = None) -> Iterator[FileServer]:
    """Run a server on a free port of this host.

    Args:
        tls: a PEM file with its certificate and key, as ``certificate`` makes; None is plain HTTP.
    """

    class Handler(_Handler):
        files: FileServer

    listener = _Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        listener.socket = context.wrap_socket(
            listener.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    server = FileServer(f"{scheme}://127.0.0.1:{listener.server_address[1]}")
    Handler.files = server
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release()
        listener.shutdown()
        thread.join()
        listener.server_close()
    assert not server.expired, "a request was held, and neither side ended that"


def certificate(folder: Path) -> Path:
    """Make a certificate for this host that is its own authority: one file with its key."""
    path = folder / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "authority.pem")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text((folder / "key.pem").read_text() + (folder / "authority.pem").read_text())
    return path


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that leave early are what is tested."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer
    timeout = _LONGEST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer as the test says."""
        self.close_connection = True
        found = self.files._answer(
            Seen(self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        if found is None:
            self._head(404, {"Content-Length": "0"}, 0.0)
            return
        entry, trick = found
        if trick.status is not None:
            body = entry.content if trick.content is None else trick.content
            self._head(trick.status, _headers({"Content-Length": str(len(body))}, trick), 0.0)
            self._body(body, trick)
            return
        content = entry.content if trick.content is None else trick.content
        headers = {
            "ETag": etag(content),
            "Last-Modified": email.utils.formatdate(1_700_000_000, usegmt=True),
            "Accept-Ranges": "bytes" if trick.ranges else "none",
        }
        shown = _headers(headers, trick)
        if shown.get("ETag") and self.headers.get("If-None-Match") == shown["ETag"]:
            self._head(304, shown, 0.0)
            return
        start = self._start(shown, trick)
        if start is None:
            status, part = 200, content
        elif start < len(content):
            status, part = 206, content[start:]
            headers["Content-Range"] = trick.content_range or (
                f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
        else:
            status, part = 416, b""
            headers["Content-Range"] = f"bytes */{len(content)}"
        if trick.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif trick.framing == "length":
            headers["Content-Length"] = str(trick.length if trick.length is not None else len(part))
        self._head(status, _headers(headers, trick), trick.drip_head)
        self._body(part, trick)

    def _start(self, shown: Mapping[str, str], trick: Trick) -> int | None:
        """Return where the range that was asked for begins, if one is to be sent."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or not trick.ranges:
            return None
        right = condition in (None, shown.get("ETag"), shown.get("Last-Modified"))
        return int(match[1]) if right or not trick.heed_if else None

    def _head(self, status: int, headers: Mapping[str, str], pause: float) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        if not pause:
            self.end_headers()
            return
        # What http.server has gathered goes out byte by byte.
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        self._send(head, Trick(drip=pause))

    def _body(self, body: bytes, trick: Trick) -> None:
        whole = body if trick.cut is None else body[: trick.cut]
        if trick.hold is None:
            self._piece(whole, trick)
        else:
            self._piece(whole[: trick.hold], trick)
            self.files._hold()
            self._piece(whole[trick.hold :], trick)
        if trick.cut is None and trick.framing == "chunked":
            self._send(b"0\r\n\r\n", Trick())

    def _piece(self, data: bytes, trick: Trick) -> None:
        if trick.framing != "chunked":
            self._send(data, trick)
        elif data:
            self._send(b"%x\r\n" % len(data), Trick())
            self._send(data, trick)
            self._send(b"\r\n", Trick())

    def _send(self, data: bytes, trick: Trick) -> None:
        if not trick.drip:
            self.wfile.write(data)
            self.wfile.flush()
            return
        for place in range(len(data)):
            self.wfile.write(data[place : place + 1])
            if self.files._released.wait(trick.drip):
                raise ConnectionAbortedError


def _headers(usual: Mapping[str, str], trick: Trick) -> dict[str, str]:
    merged = {**usual, **trick.headers}
    return {name: value for name, value in merged.items() if value is not None}


def gone(server: FileServer) -> str:
    """Return the URL of a port where nobody listens, on the host of a server."""
    return f"{server.url.rpartition(':')[0]}:{free_port()}"
