"""Does the store keep its conditions? Found out by a real race, not by its name.

A store that ignores ``If-Match`` loses pushes without a word; `init` refuses it unless there is only
one writer.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from manifest_sync.stores.base import PreconditionFailed, Store, Unknown

RACERS = 4


def keeps_conditions(store: Store, token: str) -> bool:
    """Race for one key under ``probe/``, first to create it, then to replace it; one must win each time.

    Args:
        token: a fresh random name, so that two probes never meet.
    """
    key = f"probe/{token}"
    try:
        etags = _race(store, key, None)
        if len(etags) != 1:
            return False
        replaced = _race(store, key, etags[0])
        # The first ETag is stale now: naming it must fail.
        return len(replaced) == 1 and not _race(store, key, etags[0], racers=1)
    finally:
        store.delete(key)


def _race(store: Store, key: str, etag: str | None, racers: int = RACERS) -> list[str]:
    def attempt(number: int) -> str | None:
        try:
            # Never the same content twice: an ETag may be a hash of it.
            return store.put_if(key, b"%d after %s" % (number, (etag or "none").encode()), etag=etag)
        except (PreconditionFailed, Unknown):
            return None

    with ThreadPoolExecutor(racers) as pool:
        return [won for won in pool.map(attempt, range(racers)) if won is not None]
