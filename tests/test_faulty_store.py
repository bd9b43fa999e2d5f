"""The test tool itself: faults fire where they are planned, and one that does not is an error."""

from __future__ import annotations

import pytest

from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.base import Unknown
from manifest_sync.stores.memory import MemoryStore
from tests.faulty_store import Crash, FaultyStore


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
