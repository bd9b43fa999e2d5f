"""A TCP proxy that adds distance: ``python -m benchmarks.delayproxy UPSTREAM_PORT ROUND_TRIP RATE``.

Every byte arrives half a round trip later, and the first ones of a connection a whole one more, as the TCP
handshake would take. With a RATE (bytes a second, 0 for none) all connections share one line each way. No
packet is lost, there is no slow start, and a connection has at most `WINDOW` bytes under way in a direction.

It runs in a process of its own, prints the port it listens on, and ends with its standard input.
``--measure`` says what it can carry at most: its time must be small beside what is measured through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.cases import Network

WINDOW = 8 << 20
_BLOCK = 256 << 10
_SLOW_BLOCK = 32 << 10  # so that at a rate many connections take turns


class Line:
    """One direction of the network, shared by all connections."""

    def __init__(self, delay: float, rate: int) -> None:
        self._delay = delay
        self._rate = rate
        self._free_at = 0.0

    def arrival(self, now: float, size: int) -> float:
        """When the last of ``size`` bytes, sent now, arrives."""
        if not self._rate:
            return now + self._delay
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at + self._delay


class Half(asyncio.Protocol):
    """One end of a connection: what comes in here leaves at the other end, later."""

    def __init__(self, line: Line, opening: float) -> None:
        self.other: Half | None = None
        self._line = line
        self._opening = opening
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.max_size = _SLOW_BLOCK if self._line._rate else _BLOCK  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Queue bytes for when they are due."""
        now = self._loop.time()
        due = self._line.arrival(now, len(data)) + self._opening
        self._opening = 0
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, data))
        self._waiting += len(data)
        if self._waiting > WINDOW and self._transport is not None:
            self._transport.pause_reading()
        self._arm()

    def eof_received(self) -> bool:
        """The end is due like everything else."""
        due = self._line.arrival(self._loop.time(), 0)
        self._queue.append((max(due, self._queue[-1][0]) if self._queue else due, b""))
        self._arm()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The other end hears of it at once: nobody measures broken connections."""
        if self.other is not None and self.other._transport is not None and error is not None:
            self.other._transport.abort()

    def _arm(self) -> None:
        if self._timer is None and self._queue and self.other is not None:
            self._timer = self._loop.call_at(self._queue[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        assert self.other is not None
        out = self.other._transport
        now = self._loop.time() + 0.0002  # what is due in a moment need not wait for a timer of its own
        while self._queue and self._queue[0][0] <= now:
            _, data = self._queue.popleft()
            self._waiting -= len(data)
            if out is None or out.is_closing():
                continue
            if data:
                out.write(data)
            elif out.can_write_eof():
                out.write_eof()
        if self._waiting <= WINDOW // 2 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._arm()


async def serve(upstream: int, network: Network) -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    up = Line(network.round_trip / 2, network.rate)
    down = Line(network.round_trip / 2, network.rate)
    tasks: set[asyncio.Task[None]] = set()

    async def connect(near: Half) -> None:
        far = Half(down, 0)
        far.other = near
        try:
            await loop.create_connection(lambda: far, "127.0.0.1", upstream)
        except OSError:
            if near._transport is not None:
                near._transport.abort()
            return
        near.other = far
        near._arm()

    def accept() -> Half:
        near = Half(up, network.round_trip)
        task = loop.create_task(connect(near))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    process: int
    """Its id."""

    def cpu(self) -> float:
        """Processor seconds that it took so far; 0 where the system does not say (it has no ``/proc``)."""
        try:
            text = Path(f"/proc/{self.process}/stat").read_text("ascii")
        except OSError:
            return 0
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def proxy(upstream: int, network: Network) -> Iterator[Proxy]:
    """A proxy before a port of this machine."""
    words = [sys.executable, "-m", "benchmarks.delayproxy", str(upstream)]
    with subprocess.Popen(
        [*words, str(network.round_trip), str(network.rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Proxy(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()


@dataclass(frozen=True)
class Capacity:
    """What a proxy without delay carries on this machine, beside the same without a proxy."""

    megabytes: float
    megabytes_direct: float
    exchanges: float
    """Small requests and answers a second, 32 connections."""
    exchanges_direct: float


def measure() -> Capacity:
    """Send bytes, and small messages back and forth, through a proxy without delay and without it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_answer_all, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    with proxy(port, Network("none")) as running:
        through = _rates(running.port)
    direct = _rates(port)
    listener.close()
    return Capacity(through[0], direct[0], through[1], direct[1])


def _answer_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    """Answer with one byte whenever what came ends with a newline."""
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := client.recv(1 << 20):
            if data.endswith(b"\n"):
                client.sendall(b".")


def _rates(port: int) -> tuple[float, float]:
    """MB a second on one connection; exchanges a second on 32."""
    block = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as client:
        started = time.monotonic()
        for _ in range(256):
            client.sendall(block)
        client.sendall(b"\n")
        client.recv(1)
        megabytes = 256 * len(block) / 1e6 / (time.monotonic() - started)

    def talk(count: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as one:
            for _ in range(count):
                one.sendall(b"x" * 2000 + b"\n")
                one.recv(1)

    started = time.monotonic()
    threads = [threading.Thread(target=talk, args=(100,)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return megabytes, 3200 / (time.monotonic() - started)


def main() -> None:
    """Serve, or measure."""
    if sys.argv[1] == "--measure":
        print(measure())
        return
    network = Network("", float(sys.argv[2]), int(sys.argv[3]))
    asyncio.run(serve(int(sys.argv[1]), network))


if __name__ == "__main__":
    main()
