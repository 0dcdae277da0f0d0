"""One request for a file, read by a thread of its own.

No time-out of requests holds for all of it: not for a name server that does not answer, nor for
headers that come byte by byte. So a thread reads, and who waits for it can leave at any moment.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
import requests.auth
import requests.exceptions
import urllib3.exceptions

from vagrant_kiwi import __version__
from vagrant_kiwi.description_model import mask
from vagrant_kiwi.errors import BoxError
from vagrant_kiwi.log_mask import mask_credentials

#: The most that is taken from the connection at once, and how many such pieces may wait.
_PIECE = 1 << 18
_WAITING = 16
#: Seconds for each address of a server to take the connection.
_CONNECT = 20.0
#: Seconds that the thread waits on: who waits for it shall be the one who gives up.
_LONGER = 5.0

#: What goes wrong on the way, and which of it may not do so the next time.
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
_PASSING = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


class AgainError(Exception):
    """It failed in a way that may pass.

    Args:
        reason: what happened, without anything secret.
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True)
class Head:
    """How an answer begins; ``length`` is that of its body, where the server says it."""

    status: int
    headers: Mapping[str, str]
    length: int | None

    @property
    def chunked(self) -> bool:
        """Whether the body says itself where it ends."""
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()


class Answer:
    """What comes from the server: its head, then pieces of the body."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Head | bytes | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(_WAITING)
        self._left = False

    def put(self, item: Head | bytes | Exception) -> bool:
        """Hand something over; False if nobody waits for it any more."""
        if not self._left:
            self._room.acquire()
        if self._left:
            return False
        self._items.put(item)
        return True

    def leave(self) -> None:
        """Tell the thread that nobody waits; it ends when it next wakes up."""
        self._left = True
        self._room.release()

    def head(self, seconds: float) -> Head:
        """Return the head; raises as ``piece`` does."""
        head = self._next(seconds)
        assert isinstance(head, Head)  # noqa: S101 - the thread's first word
        return head

    def piece(self, seconds: float) -> bytes:
        """Return the next bytes of the body, none at its end.

        Args:
            seconds: how long to wait.

        Raises:
            queue.Empty: nothing came.
            FAILURES: what ended the reading.
            BoxError: it leads away from https.
        """
        piece = self._next(seconds)
        assert isinstance(piece, bytes)  # noqa: S101 - a head comes once
        return piece

    def _next(self, seconds: float) -> Head | bytes:
        item = self._items.get(timeout=seconds)
        self._room.release()
        if isinstance(item, Exception):
            raise item
        return item


@contextlib.contextmanager
def asked(url: str, headers: Mapping[str, str], *, stall: float) -> Iterator[Answer]:
    """Ask for a file for the body.

    Proxies, a site's own authority and ``~/.netrc`` are those of the environment, read by requests.

    Args:
        url: http or https; may hold credentials, which go to that server only.
        headers: of the request.
        stall: seconds of silence after which the thread gives up by itself.
    """
    answer = Answer()
    reader = threading.Thread(
        target=_read, args=(answer, url, headers, stall), name="download", daemon=True
    )
    reader.start()
    try:
        yield answer
    finally:
        answer.leave()


def _read(answer: Answer, url: str, headers: Mapping[str, str], stall: float) -> None:
    bare, login = _split_login(url)
    try:
        with (
            requests.Session() as session,
            session.get(
                bare,
                auth=login,
                # Encoded on the way, a file would have another length, and no part could be had.
                headers={
                    "Accept-Encoding": "identity",
                    "User-Agent": f"vagrant-kiwi/{__version__}",
                    **headers,
                },
                stream=True,
                timeout=(min(_CONNECT, stall), stall + _LONGER),
                hooks={"response": _check_redirect},
            ) as response,
        ):
            raw = response.raw
            going = answer.put(Head(response.status_code, response.headers, raw.length_remaining))
            while going and (data := raw.read1(_PIECE, decode_content=False)):
                going = answer.put(data)
        answer.put(b"")
    except (*FAILURES, BoxError) as error:
        answer.put(error)


def _split_login(url: str) -> tuple[str, requests.auth.HTTPBasicAuth | None]:
    """Take user and password out of a URL, so that nothing that shows it shows them."""
    parts = urlsplit(url)
    login, sign, host = parts.netloc.rpartition("@")
    if not sign:
        return url, None
    user, _, password = login.partition(":")
    bare = parts._replace(netloc=host).geturl()
    # As bytes: requests takes letters that Latin-1 lacks for an error.
    return bare, requests.auth.HTTPBasicAuth(unquote(user).encode(), unquote(password).encode())


def _check_redirect(response: requests.Response, *_: Any, **__: Any) -> None:
    """Look at each answer before requests follows where it leads.

    Raises:
        BoxError: it leads from https to something that anybody on the way can change.
    """
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["Location"])
    # The body is of no use, and requests would read all of it, whatever its length.
    response.close()
    if urlsplit(response.url).scheme == "https" and urlsplit(target).scheme != "https":
        raise BoxError(
            f"{mask(response.url)} leads away from https",
            details=f"It redirects to {mask(target)}",
            resolution="Give a URL that stays with https, or the http one itself with its "
            "--sha256 if that is what you want.",
        )


def explain(error: Exception, url: str) -> AgainError | BoxError:
    """Say in our words what ended the reading of a file.

    Args:
        error: one of ``FAILURES``.
        url: of the file.

    Returns:
        What to raise: ``AgainError`` if it may pass.
    """
    chain = list(_chain(error))
    said = mask_credentials(str(chain[-1]).strip()) or type(chain[-1]).__name__
    if any(isinstance(one, http.client.IncompleteRead) for one in chain):
        said = "the connection broke off"
    tls = next((one for one in chain if isinstance(one, ssl.SSLError)), None)
    # A connection that ends in the middle of TLS's own talk is an ordinary drop.
    if tls is not None and not isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return BoxError(
            f"{mask(url)} has no TLS connection that can be trusted",
            details=said,
            resolution="Is this host's clock right, and the server's certificate? The file of a "
            "site's own authority goes into the environment variable REQUESTS_CA_BUNDLE.",
        )
    if isinstance(error, _PASSING):
        return AgainError(said)
    return BoxError(
        f"{mask(url)} cannot be downloaded",
        details=said,
        resolution="Check the URL, and the proxy and certificate settings of the environment.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is behind it; those of requests name the URL, the last does not."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        behind = (*seen.args, getattr(seen, "reason", None), seen.__cause__, seen.__context__)
        seen = next((one for one in behind if isinstance(one, BaseException)), None)
