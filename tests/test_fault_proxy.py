"""The test tool itself: faults strike where they are planned, and one that does not is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.base import NotFound, Unknown
from manifest_sync.stores.retry import Retry
from manifest_sync.stores.s3 import S3Store
from tests.fault_proxy import FOREVER, FaultProxy
from tests.servers import S3Server


@pytest.fixture
def proxy(seaweed_http: S3Server) -> Iterator[FaultProxy]:
    made = FaultProxy(seaweed_http.endpoint_url)
    yield made
    made.close()


@pytest.fixture
def store(proxy: FaultProxy, seaweed_http: S3Server) -> Iterator[S3Store]:
    location = replace(seaweed_http.location("proxy"), endpoint_url=proxy.url)
    made = S3Store(location, retry=Retry(tries=3, sleep=lambda _: None), read_timeout=20)
    yield made
    made.close()


def test_without_faults_it_passes_everything_on(proxy: FaultProxy, store: S3Store) -> None:
    store.put("a b/ü", b"x" * 100_000)
    found = store.get("a b/ü", max_bytes=100_000)
    assert found is not None
    assert found.body == b"x" * 100_000
    assert store.get("a b/ü", unless_etag=found.etag, max_bytes=100_000) is None
    assert store.get_range("a b/ü", 5, 3) == b"xxx"
    assert [item.key for item in store.list("a b/")] == ["a b/ü"]
    store.delete("a b/ü")
    with pytest.raises(NotFound):
        store.get("a b/ü", max_bytes=10)
    assert proxy.seen == [
        ("PUT", "proxy/a b/ü"),
        *[("GET", "proxy/a b/ü")] * 3,
        ("LIST", "proxy/a b/"),
        ("DELETE", "proxy/a b/ü"),
        ("GET", "proxy/a b/ü"),
    ]


def test_a_fault_strikes_the_nth_request_as_often_as_it_should(proxy: FaultProxy, store: S3Store) -> None:
    fault = proxy.add_fault("PUT", "n/*", nth=1, repeat=2, kind="403")
    store.put("other", b"x")
    store.put("n/0", b"x")
    for _ in range(2):
        with pytest.raises(AccessDenied):
            store.put("n/1", b"x")
    store.put("n/2", b"x")
    assert (fault.seen, fault.fired) == (4, 2)
    assert {item.key for item in store.list("n/")} == {"n/0", "n/2"}


def test_before_and_after_a_request_arrives(proxy: FaultProxy, store: S3Store) -> None:
    """Whether a write took effect is what these kinds differ in; the client cannot tell."""
    for kind, arrived in {"reset-before": False, "reset-middle": False, "reset-after": True}.items():
        proxy.add_fault("PUT", kind, kind=kind)
        with pytest.raises(Unknown):
            store.put_if(kind, b"x", etag=None)
        assert ([item.key for item in store.list(kind)] == [kind]) is arrived
    proxy.check()


def test_what_happens_meanwhile(proxy: FaultProxy, store: S3Store, seaweed_http: S3Server) -> None:
    other = S3Store(seaweed_http.location("proxy"))
    there: list[list[str]] = []

    def look() -> None:
        there.append([item.key for item in other.list("meanwhile")])

    proxy.add_fault("PUT", "meanwhile", kind="reset-after", before=look, after=look)
    with pytest.raises(Unknown):
        store.put_if("meanwhile", b"x", etag=None)
    assert there == [[], ["meanwhile"]]
    other.close()


def test_a_fault_for_ever(proxy: FaultProxy, store: S3Store) -> None:
    fault = proxy.add_fault("GET", "k", kind="503", repeat=FOREVER)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.get("k", max_bytes=10)
    assert fault.fired == 9


def test_a_fault_that_never_fires_fails_the_test(seaweed_http: S3Server) -> None:
    with pytest.raises(AssertionError, match="never fired"), FaultProxy(seaweed_http.endpoint_url) as proxy:
        proxy.add_fault("GET", "k", kind="500")
