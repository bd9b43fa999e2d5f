"""Fixtures that several test modules share. A server starts when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import S3Server


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
