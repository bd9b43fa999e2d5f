"""One contract, five stores: memory, a folder, and S3 by SeaweedFS (http and TLS) and by moto."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest

from manifest_sync.config import Location
from manifest_sync.errors import FormatError, UsageError
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
PLACE = re.compile(r"(s3://[^/]*|file://|memory://)/?(.*)")
OpenStore = Callable[[], Store]


@dataclass(frozen=True)
class Place:
    """Where the stores of one test are; ``server`` is None for a folder (``path``) and for memory."""

    name: str
    path: Path | None
    server: S3Server | None
    pages: int = 1
    """In how many answers a server lists what `test_list_of_more_than_a_page` puts; moto is slow."""

    def fill(self, keys: Iterable[str]) -> None:
        """Put one byte under each key, by a shorter way than through a store where there is one."""
        if self.server is not None:
            self.server.fill(f"{self.name}/{key}" for key in keys)
        elif self.path is not None:
            for key in keys:
                file = self.path / key
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"x")
        else:
            store = open_store(Location("memory", path=self.name))
            for key in keys:
                store.put(key, b"x")


@pytest.fixture(params=["memory", "directory", "moto_server", "seaweed_http", "seaweed_tls"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name = f"contract/{secrets.token_hex(6)}"
    if request.param in {"memory", "directory"}:
        return Place(name, tmp_path / "store" if request.param == "directory" else None, None)
    server = request.getfixturevalue(request.param)
    return Place(name, None, server, pages=2 if request.param == "moto_server" else 3)


@pytest.fixture
def open_again(place: Place) -> Iterator[OpenStore]:
    """Opens one and the same empty place, as often as it is called."""
    opened: list[Store] = []

    def make() -> Store:
        if place.server is not None:
            store: Store = S3Store(place.server.location(place.name), verify=place.server.ca_bundle)
        elif place.path is not None:
            store = open_store(Location("file", path=str(place.path)))
        else:
            store = open_store(Location("memory", path=place.name))
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


def test_big_object(store: Store) -> None:
    body = os.urandom(20 * MIB)
    store.put("packs/s/big.pack", body)
    assert body_of(store, "packs/s/big.pack", 20 * MIB) == body
    assert store.get_range("packs/s/big.pack", 7 * MIB + 5, 9 * MIB) == body[7 * MIB + 5 : 16 * MIB + 5]


def test_range(store: Store) -> None:
    store.put("k", b"0123456789")
    for offset, length in [(0, 1), (0, 10), (3, 4), (9, 1)]:
        assert store.get_range("k", offset, length) == b"0123456789"[offset : offset + length]


def test_range_beyond_the_end_is_never_short(store: Store) -> None:
    """It begins before the end, at it, or after it."""
    store.put("k", b"0123456789")
    for offset, length in [(0, 11), (5, 6), (9, 2), (10, 1), (11, 1), (100, 5)]:
        with pytest.raises(FormatError, match="k has"):
            store.get_range("k", offset, length)


def test_an_empty_range_needs_no_request(store: Store) -> None:
    store.put("k", b"0123456789")
    for key, offset in [("k", 0), ("k", 9), ("k", 10), ("k", 11), ("missing", 0)]:
        assert store.get_range(key, offset, 0) == b""
    assert store.requests["GET"] == 0


def test_range_with_etag(store: Store) -> None:
    store.put("k", b"0123456789")
    etag = etag_of(store, "k")
    assert store.get_range("k", 2, 3, etag=etag) == b"234"
    store.put("k", b"9876543210")
    with pytest.raises(PreconditionFailed):
        store.get_range("k", 2, 3, etag=etag)


def test_beside(store: Store) -> None:
    """What lies in the same place outside of the store's prefix is listed and read, by its full key."""
    store.put("a ü/1", b"0123456789")
    place, prefix = PLACE.fullmatch(store.location).groups()  # type: ignore[union-attr]
    if place == "file://":
        prefix += "/"
    elif place == "memory://":
        place, prefix = store.location, ""
    else:
        prefix = prefix + "/"
    beside = store.beside(place)
    [listed] = [item for item in beside.list(f"{prefix}a") if item.key.endswith("1")]
    assert (listed.key, listed.size) == (f"{prefix}a ü/1", 10)
    etag = listed.etag or "not looked at"
    before = sum(store.requests.values())
    assert beside.get_part(listed.key, 2, 3, etag=etag).data == b"234"
    assert sum(store.requests.values()) == before + 1
    with pytest.raises(FormatError):
        beside.get_part(listed.key, 5, 6, etag=etag)
    with pytest.raises(NotFound):
        beside.get_part(f"{prefix}none", 0, 1, etag=etag)
    store.put("a ü/1", b"9876543210")
    if listed.etag:
        with pytest.raises(PreconditionFailed):
            beside.get_part(listed.key, 2, 3, etag=etag)
    with pytest.raises(UsageError):
        store.beside("ftp://elsewhere")


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


def swap_beside_delete(store: Store, etag: str | None, number: int) -> bool:
    """Swap ``head`` while another thread deletes it, ``number`` says how much later; whether it swapped."""
    together = Barrier(2)

    def delete() -> None:
        together.wait(30)
        time.sleep(max(number, 0) / 5000)
        store.delete("head")

    with ThreadPoolExecutor(1) as other:
        deleted = other.submit(delete)
        together.wait(30)
        time.sleep(max(-number, 0) / 5000)
        try:
            store.put_if("head", b"new", etag=etag)
            return True
        except PreconditionFailed:
            return False
        finally:
            deleted.result()


def test_a_swap_beside_a_delete_leaves_nothing(store: Store) -> None:
    """Whichever is first: the swap is deleted, or finds what it would replace gone. Nothing comes back."""
    for number in range(-1, 6):
        etag = store.put_if("head", b"old", etag=None)
        swap_beside_delete(store, etag, number)
        with pytest.raises(NotFound):
            store.get("head", max_bytes=10)


def test_a_creation_beside_a_delete(store: Store) -> None:
    """It comes after the delete, and the new object stays; or it is refused, and nothing does."""
    for number in range(-1, 6):
        store.put("head", b"old")
        if swap_beside_delete(store, None, number):
            assert body_of(store, "head") == b"new"
        else:
            with pytest.raises(NotFound):
                store.get("head", max_bytes=10)


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


def test_list_of_more_than_a_page(place: Place, store: Store) -> None:
    """A server gives a thousand at a time."""
    keys = [f"many/{number:05d}" for number in range(1100 if place.pages == 2 else 2501)]
    place.fill([*keys, "manyfold/1"])
    assert sorted(item.key for item in store.list("many/")) == keys
    assert dict(store.requests) == {"LIST": place.pages}


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
