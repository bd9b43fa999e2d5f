"""An HTTP server that answers what a test tells it to, one answer a request; then 599."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """One answer. ``reset``: read the request and close without a word. ``cut``: send so many bytes only.

    ``endless``: do not say how long the body is. ``drip``: seconds between two bytes, headers too.
    A header whose value is empty is left out.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    stall: float = 0.0
    cut: int | None = None
    endless: bool = False
    drip: float = 0.0


def error(status: int, code: str, **headers: str) -> Answer:
    """An S3 error answer."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Script:
    """The answers still to give, and the requests that came (method, path, headers, body)."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Script

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that gave up waiting is what a stall is for."""


class _Drip(io.BufferedIOBase):
    """Writes a byte at a time."""

    def __init__(self, inner: io.BufferedIOBase, seconds: float, stop: threading.Event) -> None:
        self._inner = inner
        self._seconds = seconds
        self._stop = stop

    def write(self, data: Any, /) -> int:
        for byte in bytes(data):
            self._inner.write(bytes([byte]))
            if self._stop.wait(self._seconds):
                break
        return len(data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        assert isinstance(self.server, _Server)
        script = self.server.script
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.seen.append((self.command, self.path, headers, body))
        answer = script.answers.pop(0) if script.answers else Answer(599, b"no more answers")
        if answer.stall:
            script.stop.wait(answer.stall)
        if answer.reset:
            self.close_connection = True
            return
        if answer.drip:
            self.close_connection = True
            self.wfile = _Drip(self.wfile, answer.drip, script.stop)
        self.send_response(answer.status)
        for name, value in {"ETag": '"e"', **answer.headers}.items():
            if value:
                self.send_header(name, value)
        if answer.status != 304 and not answer.endless:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.status != 304 and self.command != "HEAD":
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        self.close_connection = self.close_connection or answer.cut is not None or answer.endless

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def scripted_server() -> Iterator[Script]:
    """Runs the server for the time of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.script = Script(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.script
    finally:
        server.script.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()
