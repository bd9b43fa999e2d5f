"""Fixtures that several test modules share. A server starts when the first test asks for it.

The suites that draw at random have a quick half, which always runs, and a long half behind ``--soak``.
"""

from __future__ import annotations

import os
import random
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.httpsession import URLLib3Session

from tests import servers
from tests.servers import S3Server


@dataclass(frozen=True)
class Soak:
    """How much a random suite does, and from which seed."""

    seed: int
    factor: int

    def count(self, quick: int, long: int) -> int:
        """``quick`` in an ordinary run, ``long`` times the factor with ``--soak FACTOR``."""
        return long * self.factor if self.factor else quick

    def dice(self, salt: object = "") -> random.Random:
        """Random numbers that the seed and the salt determine."""
        return random.Random(f"{self.seed} {salt}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", type=int, default=0, metavar="N", help="the long half of the suites, N times")
    parser.addoption("--seed", type=int, default=1, metavar="N", help="seed of the random suites")
    parser.addoption("--mutation", default="", metavar="NAME", help="seed a bug of tests/mutations.py")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--mutation")
    if name:
        from tests.mutations import BY_NAME  # noqa: PLC0415  it imports much that other runs need not

        BY_NAME[name].apply()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: a worker a core, at most four, for each starts real S3 servers of its own."""
    return min(4, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> Soak:
    return Soak(pytestconfig.getoption("--seed"), pytestconfig.getoption("--soak"))


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: for tests of many short runs, whose time goes to fsync."""
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared_memory, prefix="manifest-sync-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _http_sessions() -> Iterator[weakref.WeakSet[URLLib3Session]]:
    """Every HTTP session that an S3 client has opened and that still lives."""
    alive: weakref.WeakSet[URLLib3Session] = weakref.WeakSet()
    original = URLLib3Session.__init__

    def noted(session: URLLib3Session, *args: Any, **options: Any) -> None:
        original(session, *args, **options)
        alive.add(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(URLLib3Session, "__init__", noted)
        yield alive


@pytest.fixture(autouse=True)
def _connections_are_closed(_http_sessions: weakref.WeakSet[URLLib3Session]) -> Iterator[None]:
    """What a test leaves open is closed at its end: collected whenever it pleases Python, a connection would
    be a warning in the midst of another test. A client that lives on connects anew."""
    yield
    for session in list(_http_sessions):
        session.close()


@pytest.fixture(scope="module")
def short_pages() -> Iterator[None]:
    """Pages end after `tests.damage.boundary_names`, however short they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manifest_sync.pagecut.MIN_LENGTH", 1)
        yield


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost races are tried again at once."""
    monkeypatch.setattr("manifest_sync.project_folder.time.sleep", lambda seconds: None)


@pytest.fixture(scope="session")
def seaweed_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweed-http"), tls=False) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweed-tls"), tls=True) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with servers.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server
