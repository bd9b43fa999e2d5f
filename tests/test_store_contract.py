"""One contract, five stores: memory, a folder, and S3 by SeaweedFS (http and TLS) and by moto."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manifest_sync.config import Location
from manifest_sync.errors import FormatError
from manifest_sync.stores import open_store
from manifest_sync.stores.base import NotFound, PreconditionFailed, Store
from manifest_sync.stores.s3 import S3Store
from tests.servers import S3Server

MIB = 1 << 20
WEIRD_KEYS = [
    "a b/c+d&e=f%20g",
    "ünïcödé/日本語.json",
    "quote'\"<tag>;#?",
    "dots.../..hidden/-dash",
    "~tilde/(1)[2]{3}!*@$,:",
    "deep/" + "x/" * 40 + "end",
]
OpenStore = Callable[[], Store]


@pytest.fixture(params=["memory", "directory", "moto", "seaweed_http", "seaweed_tls"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens one and the same empty place, as often as it is called."""
    opened: list[Store] = []
    name = secrets.token_hex(6)

    def make() -> Store:
        if request.param == "memory":
            store = open_store(Location("memory", path=name))
        elif request.param == "directory":
            store = open_store(Location("file", path=str(tmp_path / "store")))
        else:
            fixture = "moto_server" if request.param == "moto" else request.param
            server: S3Server = request.getfixturevalue(fixture)
            store = S3Store(server.location(f"contract/{name}"), verify=server.ca_bundle)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_again: OpenStore) -> Store:
    return open_again()


def body_of(store: Store, key: str, max_bytes: int = MIB) -> bytes:
    found = store.get(key, max_bytes=max_bytes)
    assert found is not None
    return found.body


def etag_of(store: Store, key: str) -> str:
    found = store.get(key, max_bytes=MIB)
    assert found is not None
    return found.etag


def test_get_returns_what_put_wrote(store: Store, open_again: OpenStore) -> None:
    store.put("k", b"one")
    assert body_of(store, "k") == b"one"
    store.put("k", b"two")
    assert body_of(store, "k") == b"two"
    assert body_of(open_again(), "k") == b"two"


def test_get_of_a_missing_key(store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        store.get("a/missing", max_bytes=10)
    assert caught.value.key == "a/missing"


def test_conditional_get(store: Store) -> None:
    store.put("k", b"one")
    etag = etag_of(store, "k")
    assert store.get("k", unless_etag=etag, max_bytes=10) is None
    store.put("k", b"two")
    found = store.get("k", unless_etag=etag, max_bytes=10)
    assert found is not None
    assert found.body == b"two"
    assert found.etag != etag


def test_max_bytes_is_a_bound(store: Store) -> None:
    store.put("k", b"x" * 100)
    assert len(body_of(store, "k", 100)) == 100
    with pytest.raises(FormatError, match="100 bytes"):
        store.get("k", max_bytes=99)


def test_empty_object(store: Store) -> None:
    store.put("empty", b"")
    assert body_of(store, "empty", 0) == b""
    assert [(item.key, item.size) for item in store.list("")] == [("empty", 0)]
    assert store.get_range("empty", 0, 0) == b""


def test_big_object(store: Store) -> None:
    body = os.urandom(20 * MIB)
    store.put("packs/s/big.pack", body)
    assert body_of(store, "packs/s/big.pack", 20 * MIB) == body
    assert store.get_range("packs/s/big.pack", 7 * MIB + 5, 9 * MIB) == body[7 * MIB + 5 : 16 * MIB + 5]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 10), (3, 4), (9, 1)])
def test_range(store: Store, offset: int, length: int) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", offset, length) == b"0123456789"[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (9, 2), (10, 1), (100, 5)])
def test_range_beyond_the_end_is_never_short(store: Store, offset: int, length: int) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(FormatError, match="k has"):
        store.get_range("k", offset, length)


def test_range_with_etag(store: Store) -> None:
    store.put("k", b"0123456789")
    etag = etag_of(store, "k")
    assert store.get_range("k", 2, 3, etag=etag) == b"234"
    store.put("k", b"9876543210")
    with pytest.raises(PreconditionFailed):
        store.get_range("k", 2, 3, etag=etag)


def test_range_of_a_missing_key(store: Store) -> None:
    with pytest.raises(NotFound):
        store.get_range("missing", 0, 5)


def test_put_if_absent(store: Store) -> None:
    etag = store.put_if("k", b"one", etag=None)
    assert etag_of(store, "k") == etag
    with pytest.raises(PreconditionFailed):
        store.put_if("k", b"two", etag=None)
    assert body_of(store, "k") == b"one"


def test_put_if_etag(store: Store) -> None:
    first = store.put_if("k", b"one", etag=None)
    second = store.put_if("k", b"two", etag=first)
    assert second != first
    assert etag_of(store, "k") == second
    with pytest.raises(PreconditionFailed):
        store.put_if("k", b"three", etag=first)
    assert body_of(store, "k") == b"two"
    assert store.put_if("k", b"three", etag=etag_of(store, "k")) == etag_of(store, "k")


def test_put_if_etag_of_a_missing_key(store: Store) -> None:
    etag = store.put_if("k", b"one", etag=None)
    store.delete("k")
    with pytest.raises(PreconditionFailed):
        store.put_if("k", b"two", etag=etag)
    assert store.put_if("k", b"two", etag=None)


@pytest.mark.parametrize("exists", [False, True])
def test_a_race_of_sixteen_has_one_winner(open_again: OpenStore, exists: bool) -> None:
    stores = [open_again() for _ in range(4)]
    etag = stores[0].put_if("head", b"start", etag=None) if exists else None

    def swap(number: int) -> bytes | None:
        body = b"racer %d" % number
        try:
            stores[number % 4].put_if("head", body, etag=etag)
        except PreconditionFailed:
            return None
        return body

    with ThreadPoolExecutor(16) as pool:
        winners = [won for won in pool.map(swap, range(16)) if won is not None]
    assert len(winners) == 1
    assert body_of(stores[0], "head") == winners[0]


def test_list(store: Store) -> None:
    keys = {"manifest.json", "packs/a b", "packs/a/b", "packs/a/c", "pages/x", "packs.txt"}
    for key in keys:
        store.put(key, key.encode())
    assert {item.key for item in store.list("")} == keys
    assert {item.key for item in store.list("packs/")} == {"packs/a b", "packs/a/b", "packs/a/c"}
    assert {item.key for item in store.list("packs/a")} == {"packs/a b", "packs/a/b", "packs/a/c"}
    assert {item.key for item in store.list("pa")} == keys - {"manifest.json"}
    assert list(store.list("none/")) == []
    for item in store.list(""):
        assert item.size == len(item.key)
        assert abs(item.modified - time.time()) < 600
        assert item.etag in {"", etag_of(store, item.key)}


def test_list_of_more_than_a_page(store: Store) -> None:
    keys = {f"many/{number:05d}" for number in range(1100)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    listed = [item.key for item in store.list("many/")]
    assert len(listed) == len(keys)
    assert set(listed) == keys


def test_delete_is_idempotent(store: Store) -> None:
    store.put("a/k", b"x")
    store.put("a/other", b"x")
    store.delete("a/k")
    store.delete("a/k")
    store.delete("never/was")
    assert [item.key for item in store.list("")] == ["a/other"]
    store.put("a/k", b"again")
    assert body_of(store, "a/k") == b"again"


def test_weird_keys(store: Store) -> None:
    for key in WEIRD_KEYS:
        store.put(key, key.encode())
    assert {item.key for item in store.list("")} == set(WEIRD_KEYS)
    for key in WEIRD_KEYS:
        assert body_of(store, key) == key.encode()
        assert store.get_range(key, 1, 3) == key.encode()[1:4]
        store.delete(key)
    assert list(store.list("")) == []


def test_every_request_is_counted(store: Store) -> None:
    store.put("k", b"0123456789")
    etag = etag_of(store, "k")
    store.get("k", unless_etag=etag, max_bytes=10)
    store.get_range("k", 0, 5)
    with pytest.raises(NotFound):
        store.get("missing", max_bytes=10)
    store.put_if("k", b"x", etag=etag)
    list(store.list(""))
    store.delete("k")
    assert dict(store.requests) == {"PUT": 2, "GET": 4, "LIST": 1, "DELETE": 1}


def test_counts_of_many_threads(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.put(f"k{number % 8}", b"x"), range(64)))
    assert store.requests["PUT"] == 64


def test_the_location_names_no_secret(store: Store) -> None:
    assert "://" in store.location
    assert "secret" not in store.location
