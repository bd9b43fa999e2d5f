"""Does the store keep its conditions? Found out by a real race, not by its name.

A store that ignores ``If-Match`` loses pushes without a word; `init` refuses it unless there is only
one writer.
"""

from __future__ import annotations

import time
from functools import partial

from manifest_sync.bounded import TimedOut, all_within
from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.base import NotFound, PreconditionFailed, Store, Unknown

RACERS = 4
_SECONDS = 120.0
_ROUNDS = 3
_PAUSE = 1.1  # R2 takes one write a second on a key and turns the others away


def keeps_conditions(store: Store, token: str) -> bool:
    """Whether one of several racing writers wins, each time.

    Args:
        token: a fresh random name, so that two probes never meet.
    """
    return not condition_fault(store, token)


def condition_fault(store: Store, token: str, *, racers: int = RACERS) -> str:
    """What is wrong with the store's conditional writes; '' when it keeps its conditions.

    Races for one key under ``probe/``, first to create it, then to replace it. What was written there is
    removed again, if that is allowed.

    Args:
        token: a fresh random name, so that two probes never meet.
        racers: how many writers race.

    Raises:
        StoreUnavailable: too many requests failed to tell.
    """
    key = f"probe/{token}-race"
    try:
        first = _race(store, key, None, racers)
        if len(first) != 1:
            return f"{len(first)} of {racers} racing writers were told that they created the same object"
        if _race(store, key, None, 1):
            return "an object that must not exist yet (If-None-Match: *) was overwritten"
        second = _race(store, key, first[0], racers)
        if len(second) != 1:
            return f"{len(second)} of {racers} racing writers were told that they replaced the same object"
        # The first ETag is stale now: naming it must fail.
        if _race(store, key, first[0], 1):
            return "an object was overwritten although it was not the one that was named (If-Match)"
        if _may_delete(store, key) and _race(store, key, second[0], 1):
            return "an object that was gone was taken for the one that was named (If-Match)"
    finally:
        _may_delete(store, key)
    return ""


def _may_delete(store: Store, key: str) -> bool:
    """Delete the probe; a key that may not is good for everything but gc, and leaves it there."""
    try:
        store.delete(key)
    except AccessDenied:
        return False
    return True


def _race(store: Store, key: str, etag: str | None, racers: int) -> list[str]:
    """The ETags of those who won, also of one whose answer was lost."""
    for _ in range(_ROUNDS):
        # Never the same content twice: an ETag may be a hash of it.
        bodies = [b"%d of %d after %s" % (n, racers, (etag or "none").encode()) for n in range(racers)]
        answers = all_within(_SECONDS, [partial(store.put_if, key, body, etag=etag) for body in bodies])
        won: dict[bytes, str] = {}
        undecided: list[bytes] = []
        for body, answer in zip(bodies, answers, strict=True):
            if isinstance(answer, str):
                won[body] = answer
            elif isinstance(answer, (Unknown, StoreUnavailable, TimedOut)):
                undecided.append(body)
            elif not isinstance(answer, PreconditionFailed):
                raise answer
        if undecided:
            try:
                found = store.get(key, max_bytes=1 << 16)
            except NotFound:
                found = None
            if found is not None and found.body in undecided:
                won[found.body] = found.etag
        if won or len(undecided) < len(bodies):
            return list(won.values())
        time.sleep(_PAUSE)
    raise StoreUnavailable(
        f"{store.location} turned every conditional write away, so that nothing can be said about them",
        "try again in a minute",
    )
