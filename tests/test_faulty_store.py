"""The test tool itself: faults fire where they are planned, and one that does not is an error."""

from __future__ import annotations

import pytest

from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.base import NotFound, Object, PreconditionFailed, Unknown
from manifest_sync.stores.memory import MemoryStore
from tests.faulty_store import Crash, FaultyStore, Kind


def test_before_has_no_effect_and_fires_once() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.add_fault("put", after=1, kind="before", key_prefix="packs/")
        store.put("packs/1", b"x")
        store.put("pages/1", b"x")
        with pytest.raises(StoreUnavailable):
            store.put("packs/2", b"x")
        store.put("packs/3", b"x")
        assert {item.key for item in store.list("")} == {"packs/1", "packs/3", "pages/1"}


def test_a_lost_reply_takes_effect() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.add_fault("put_if", kind="after_lost_reply")
        with pytest.raises(Unknown):
            store.put_if("head", b"x", etag=None)
        assert store.get("head", max_bytes=1) is not None


def test_after_a_crash_nothing_works() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.add_fault("put", kind="crash")
        with pytest.raises(Crash):
            store.put("k", b"x")
        with pytest.raises(Crash):
            store.delete("k")
        assert list(store.inner.list("")) == []


def test_a_fault_that_never_fires_fails_the_test() -> None:
    store = FaultyStore(MemoryStore())
    store.add_fault("get", after=3, kind="before")
    with pytest.raises(AssertionError, match="never fired"):
        store.check()


def test_what_is_read_goes_wrong_in_the_way_that_was_planned() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.put("k", b"0123456789")
        store.put("l", b"")
        etag = store.put_if("head", b"now", etag=None)
        spoiled: dict[Kind, bytes] = {
            "flipped": b"0123446789",
            "cut": b"01234",
            "long": b"01234567890123456",
            "other": b"xyxyxyxyxy",
        }
        for kind, expected in spoiled.items():
            store.add_fault("get", kind=kind, body=b"xy")
            found = store.get("k", max_bytes=10)
            assert found is not None
            assert found.body == expected
        store.add_fault("get_range", kind="flipped")
        assert store.get_range("k", 2, 3) == b"224"
        store.add_fault("get", kind="stale", body=b"before", etag="old")
        assert store.get("head", unless_etag=etag, max_bytes=10) == Object(b"before", "old")
        store.add_fault("get", kind="stale", body=b"before", etag="old")
        assert store.get("head", unless_etag="old", max_bytes=10) is None
        store.add_fault("get", kind="error_body")
        error = store.get("k", max_bytes=10)
        assert error is not None
        assert b"<Error>" in error.body
        store.add_fault("get", kind="missing")
        with pytest.raises(NotFound):
            store.get("k", max_bytes=10)
        store.add_fault("get_range", kind="denied")
        with pytest.raises(AccessDenied):
            store.get_range("k", 0, 1)
        store.add_fault("list", kind="short")
        assert len(list(store.list(""))) == 1
        store.add_fault("list", kind="empty")
        assert list(store.list("")) == []
        assert len(list(store.list(""))) == 3


def test_conditions_go_wrong_in_the_way_that_was_planned() -> None:
    with FaultyStore(MemoryStore()) as store:
        first = store.put_if("head", b"first", etag=None)
        store.add_fault("put_if", kind="refused")
        with pytest.raises(PreconditionFailed):
            store.put_if("head", b"second", etag=first)
        store.add_fault("put_if", kind="unconditional")
        second = store.put_if("head", b"second", etag="wrong")
        assert store.get("head", max_bytes=10) == Object(b"second", second)


def test_what_happens_meanwhile() -> None:
    with FaultyStore(MemoryStore()) as store:
        seen = []

        def look() -> None:
            seen.append([item.key for item in store.inner.list("")])

        store.add_fault("put", kind="pass", meanwhile_before=look, meanwhile_after=look)
        store.put("k", b"")
    assert seen == [[], ["k"]]
