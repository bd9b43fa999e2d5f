"""A TCP proxy between boto3 and a real S3 server that fails on purpose, at a request chosen beforehand.

It speaks just enough HTTP/1.1 to know where a message ends. The Host header goes through unchanged: the
client signs for the proxy's address, and the server checks the signature against that header.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.servers import ACCESS_KEY, SECRET_KEY

FOREVER = 1 << 30
"""``repeat`` of a fault that strikes every request from the first one on."""
_BODILESS = {204, 304}
_DRIP_SECONDS = 0.05


@dataclass(frozen=True)
class Message:
    """One request or response: its first line, its headers in order, and its whole body."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The value of a header, '' without it."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def with_header(self, name: str, value: str | None) -> Message:
        """The message with a header replaced; None takes it out."""
        kept = tuple(item for item in self.headers if item[0].lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))

    def with_body(self, body: bytes) -> Message:
        """The message with another body and the length that goes with it."""
        return replace(self.with_header("Content-Length", str(len(body))), body=body)

    def head(self) -> bytes:
        """Everything before the body."""
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(" ", 2)[1])

    @property
    def is_bodiless(self) -> bool:
        """Whether a response has no body whatever its headers say."""
        return self.status in _BODILESS or self.status < 200

    @property
    def method(self) -> str:
        """``GET``, ``PUT`` …; a GET of the bucket itself is ``LIST``."""
        word, target, _ = self.start.split(" ", 2)
        return "LIST" if word == "GET" and "list-type=" in target else word

    @property
    def key(self) -> str:
        """The object's key, or the prefix that is listed; the bucket is left out."""
        parts = urlsplit(self.start.split(" ", 2)[1])
        if self.method == "LIST":
            return parse_qs(parts.query).get("prefix", [""])[0]
        return unquote(parts.path).lstrip("/").partition("/")[2]


def read_message(file: BinaryIO, *, answers: str = "") -> Message | None:
    """The next message from a connection; None at its end.

    Args:
        file: the connection, buffered.
        answers: the method that a response answers; '' for a request.
    """
    first = file.readline(65537)
    if not first.endswith(b"\n"):
        return None
    headers = []
    while (line := file.readline(65537)) not in {b"\r\n", b"\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    message = Message(first.decode("latin-1").rstrip("\r\n"), tuple(headers))
    if answers == "HEAD" or (answers and message.is_bodiless):
        return message
    if "chunked" in message.header("transfer-encoding").lower():
        return message.with_header("Transfer-Encoding", None).with_body(_read_chunks(file))
    length = message.header("content-length")
    if not length and answers:
        return message.with_body(file.read())
    return replace(message, body=file.read(int(length or 0)))


def _read_chunks(file: BinaryIO) -> bytes:
    parts = []
    while size := int(file.readline().split(b";")[0], 16):
        parts.append(file.read(size))
        file.readline()
    while file.readline() not in {b"\r\n", b"\n", b""}:
        pass
    return b"".join(parts)


class HangUp(Exception):
    """The connection to the client is to be closed; ``reset`` without a goodbye."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


@dataclass
class Fault:
    """Strikes ``repeat`` times, from the matching request number ``nth`` (from 0) on.

    Of several that are due the one planned first strikes, and the others wait for the next request.
    """

    method: str
    key_pattern: str
    nth: int
    kind: str
    repeat: int
    body: bytes = b""
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    seen: int = 0
    fired: int = 0

    def is_met(self, request: Message) -> bool:
        """Whether it can strike this request."""
        return self.method == request.method and (
            fnmatchcase(request.key, self.key_pattern) or fnmatchcase(request.key, f"*/{self.key_pattern}")
        )


@dataclass
class Exchange:
    """One request under a fault, with what a fault needs to do its work."""

    fault: Fault
    request: Message
    client: socket.socket
    stop: threading.Event
    send_upstream: Callable[[bytes, str], Message | None]

    def forward(self, request: Message | None = None) -> Message:
        """Pass a request on (by default the one that came) and read the server's answer."""
        asked = request or self.request
        answer = self.send_upstream(asked.head() + asked.body, asked.method)
        if answer is None:
            raise HangUp
        if self.fault.after is not None:
            self.fault.after()
        return answer

    def reply(self, response: Message) -> None:
        """Give the client an answer."""
        self.client.sendall(response.head() + response.body)

    def error(self, status: int, code: str, **headers: str) -> None:
        """Give the client an S3 error without asking the server."""
        self.reply(s3_error(status, code, **headers))

    def wait_for_the_client(self) -> None:
        """Say nothing until the client gives up."""
        self.client.settimeout(0.1)
        while not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.client.recv(65536):
                    break
        raise HangUp


def s3_error(status: int, code: str, **headers: str) -> Message:
    """An error as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned fault</Message></Error>"
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Message(f"HTTP/1.1 {status} Fault", (("Content-Type", "application/xml"), *named)).with_body(
        b"" if status in _BODILESS else body.encode()
    )


def _html(status: int) -> Message:
    body = b"<html><body><p>Sign in to the network</p></body></html>"
    return Message(f"HTTP/1.1 {status} Fault", (("Content-Type", "text/html"),)).with_body(body)


def _reset_before(exchange: Exchange) -> None:
    raise HangUp(reset=True)


def _reset_middle(exchange: Exchange) -> None:
    """A write arrives in half, a read is answered in half."""
    request = exchange.request
    if request.body:
        exchange.send_upstream(request.head() + request.body[: len(request.body) // 2], "")
        raise HangUp(reset=True)
    whole = exchange.forward()
    raw = whole.head() + whole.body
    exchange.client.sendall(raw[: max(len(raw) - len(whole.body) // 2 - 1, 1)])
    raise HangUp(reset=True)


def _reset_after(exchange: Exchange) -> None:
    exchange.forward()
    raise HangUp(reset=True)


def _slow_down_after(exchange: Exchange) -> None:
    """The write takes effect, and something in between says that it did not."""
    exchange.forward()
    exchange.error(503, "SlowDown")


def _hang_after(exchange: Exchange) -> None:
    exchange.forward()
    exchange.wait_for_the_client()


def _truncate(exchange: Exchange) -> None:
    """The connection ends in an orderly way before the body does."""
    whole = exchange.forward()
    exchange.client.sendall(whole.head() + whole.body[: len(whole.body) // 2])
    raise HangUp


def _length_long(exchange: Exchange) -> None:
    whole = exchange.forward()
    exchange.reply(whole.with_header("Content-Length", str(len(whole.body) + 7)))
    raise HangUp


def _length_short(exchange: Exchange) -> None:
    """The client takes the rest of the body for the next answer on this connection."""
    whole = exchange.forward()
    exchange.reply(whole.with_header("Content-Length", str(len(whole.body) // 2)))


def _no_length(exchange: Exchange) -> None:
    """Half a body that only the end of the connection ends: nobody can see that it was cut."""
    whole = exchange.forward().with_header("Content-Length", None).with_header("Connection", "close")
    exchange.client.sendall(whole.head() + whole.body[: len(whole.body) // 2])
    raise HangUp


def _flip(exchange: Exchange) -> None:
    """One bit in the body: of a write on its way there, of a read on its way back."""
    if exchange.request.body:
        exchange.reply(exchange.forward(replace(exchange.request, body=_flipped(exchange.request.body))))
    else:
        whole = exchange.forward()
        exchange.reply(replace(whole, body=_flipped(whole.body)))


def _flipped(body: bytes) -> bytes:
    assert body, "there is no bit to flip"
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _other_body(exchange: Exchange) -> None:
    """The right headers around the fault's own bytes, as many as were there."""
    whole = exchange.forward()
    other = exchange.fault.body
    copies = len(whole.body) // len(other) + 1
    exchange.reply(replace(whole, body=(other * copies)[: len(whole.body)]))


def _stale(exchange: Exchange) -> None:
    """An earlier version of the object, as a cache would serve it, its own ETag included."""
    etag = f'"{hashlib.md5(exchange.fault.body).hexdigest()}"'
    if exchange.request.header("if-none-match") == etag:
        exchange.reply(Message("HTTP/1.1 304 Not Modified", (("ETag", etag),)))
    else:
        exchange.reply(Message("HTTP/1.1 200 OK", (("ETag", etag),)).with_body(exchange.fault.body))


def _trickle(exchange: Exchange) -> None:
    whole = exchange.forward()
    for byte in whole.head() + whole.body:
        exchange.client.sendall(bytes([byte]))
        if exchange.stop.wait(_DRIP_SECONDS):
            break
    raise HangUp


def _trickled_body(exchange: Exchange) -> None:
    whole = exchange.forward()
    exchange.client.sendall(whole.head())
    for byte in whole.body:
        exchange.client.sendall(bytes([byte]))
        if exchange.stop.wait(_DRIP_SECONDS):
            break
    raise HangUp


def _listing_without(exchange: Exchange, keep: Callable[[int], int]) -> None:
    whole = exchange.forward()
    items = re.findall(rb"<Contents>.*?</Contents>", whole.body, re.DOTALL)
    body = whole.body
    for item in items[keep(len(items)) :]:
        body = body.replace(item, b"")
    exchange.reply(whole.with_body(body))


def _without(exchange: Exchange, *headers: str) -> None:
    """What a store does that does not know these conditions of a write."""
    bare = exchange.request
    for name in headers:
        bare = bare.with_header(name, None)
    exchange.reply(exchange.forward(_signed(bare)))


def _bare_etags(exchange: Exchange) -> None:
    """Ceph compares the text of If-Match with the ETag itself, which has no quotes."""
    named = exchange.request.header("if-match")
    if named.startswith('"'):
        exchange.error(412, "PreconditionFailed")
    elif named:
        exchange.reply(exchange.forward(_signed(exchange.request.with_header("If-Match", f'"{named}"'))))
    else:
        exchange.reply(exchange.forward())


def _signed(request: Message) -> Message:
    """The request signed anew: a condition is among the headers that a signature covers."""
    method, target, _ = request.start.split(" ", 2)
    unsigned = request.with_header("Authorization", None)
    host = unsigned.header("host")
    signing = AWSRequest(method, f"http://{host}{target}", headers=dict(unsigned.headers), data=request.body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(signing)
    signed = dict(signing.headers.items())
    return replace(request, headers=tuple((name, str(value)) for name, value in signed.items()))


def _twice(exchange: Exchange) -> None:
    """Something in between sends the request again and passes on the second answer."""
    exchange.forward()
    exchange.reply(exchange.forward())


def _weak_etag(exchange: Exchange) -> None:
    """What a compressing middlebox does."""
    whole = exchange.forward()
    exchange.reply(whole.with_header("ETag", f"W/{whole.header('etag')}"))


KINDS: dict[str, Callable[[Exchange], None]] = {
    "429": lambda e: e.error(429, "TooManyRequests", Retry_After="1"),
    "500": lambda e: e.error(500, "InternalError"),
    "503": lambda e: e.error(503, "SlowDown"),
    "503-after": _slow_down_after,
    "503-html": lambda e: e.reply(_html(503)),
    "403": lambda e: e.error(403, "AccessDenied"),
    "404": lambda e: e.error(404, "NoSuchKey"),
    "409": lambda e: e.error(409, "ConditionalRequestConflict"),
    "412": lambda e: e.error(412, "PreconditionFailed"),
    "304": lambda e: e.error(304, ""),
    "200-error": lambda e: e.error(200, "InternalError"),
    "200-html": lambda e: e.reply(_html(200)),
    "reset-before": _reset_before,
    "reset-middle": _reset_middle,
    "reset-after": _reset_after,
    "hang": Exchange.wait_for_the_client,
    "hang-after": _hang_after,
    "truncate": _truncate,
    "length-long": _length_long,
    "length-short": _length_short,
    "no-length": _no_length,
    "flip": _flip,
    "other-body": _other_body,
    "stale": _stale,
    "trickle": _trickle,
    "trickle-body": _trickled_body,
    "empty-listing": lambda e: _listing_without(e, lambda _: 0),
    "short-listing": lambda e: _listing_without(e, lambda n: n // 2),
    "no-condition": lambda e: _without(e, "If-Match", "If-None-Match"),
    "no-if-match": lambda e: _without(e, "If-Match"),
    "no-if-none-match": lambda e: _without(e, "If-None-Match"),
    "bare-etags": _bare_etags,
    "twice": _twice,
    "weak-etag": _weak_etag,
    "pass": lambda e: e.reply(e.forward()),
}
"""What can be planned; ``pass`` does no harm, and is there for what happens ``before`` and ``after``."""


@dataclass
class FaultProxy:
    """Listens on a port of this machine and passes requests on to ``upstream``.

    As a context manager it fails the test when a planned fault never fired: such a test proves nothing.
    """

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Every request that came: method and key."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._clients: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True, name="fault-proxy").start()

    @property
    def url(self) -> str:
        """The endpoint to name to the client."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def add_fault(
        self,
        method: str,
        key_pattern: str,
        *,
        kind: str,
        nth: int = 0,
        repeat: int = 1,
        body: bytes = b"",
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> Fault:
        """Plan a fault.

        Args:
            method: ``GET``, ``LIST``, ``PUT``, ``DELETE``, ``HEAD`` or ``POST``.
            key_pattern: shell pattern that the key, or its end after a ``/``, must match.
            kind: one of `KINDS`.
            nth: the number of the matching request that it strikes first, from 0.
            repeat: how many matching requests it strikes, one after the other.
            body: what ``other-body`` and ``stale`` answer with.
            before: called when the request has come and before anything is done with it.
            after: called when the server has answered and before the client hears of it.
        """
        assert kind in KINDS, kind
        fault = Fault(method, key_pattern, nth, kind, repeat, body, before, after)
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults and requests."""
        with self._lock:
            self.faults.clear()
            self.seen.clear()

    def check(self) -> None:
        """Fail when a planned fault never fired."""
        unfired = [fault for fault in self.faults if not fault.fired]
        assert not unfired, f"planned faults never fired: {unfired}; requests were {Counter(self.seen)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.check()

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._stop.set()
        self._listener.close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while self._clients and time.monotonic() < deadline:
            time.sleep(0.01)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True, name="fault-proxy").start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with client.makefile("rb") as file:
                while (request := read_message(file)) is not None:
                    self._handle(request, client)
        except HangUp as end:
            if end.reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            with self._lock:
                self._clients.discard(client)

    def _handle(self, request: Message, client: socket.socket) -> None:
        fault = self._due(request)
        harmless = Fault(request.method, "", 0, "pass", 1)
        exchange = Exchange(fault or harmless, request, client, self._stop, self._send_upstream)
        if fault is not None and fault.before is not None:
            fault.before()
        KINDS[exchange.fault.kind](exchange)

    def _due(self, request: Message) -> Fault | None:
        with self._lock:
            self.seen.append((request.method, request.key))
            due: Fault | None = None
            for fault in self.faults:
                if not fault.is_met(request):
                    continue
                fault.seen += 1
                if due is None and fault.seen > fault.nth and fault.fired < fault.repeat:
                    fault.fired += 1
                    due = fault
            return due

    def _send_upstream(self, raw: bytes, method: str) -> Message | None:
        """Send bytes to the server and read its answer; without ``method`` no answer is waited for."""
        parts = urlsplit(self.upstream)
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60) as server:
            server.sendall(raw)
            if not method:
                return None
            with server.makefile("rb") as file:
                return read_message(file, answers=method)
