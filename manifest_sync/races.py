"""Trying again when another machine published first, or a collection took away what was about to be read."""

from __future__ import annotations

from collections.abc import Callable

from manifest_sync import observe
from manifest_sync.errors import Contended, Damaged
from manifest_sync.lostpages import LostPages
from manifest_sync.repository import Head, Raced
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace

MAX_RACES = 40
MAX_LOOKS = 3


def until_published(ws: Workspace, head: Head, attempt: Callable[[Head], Head | Raced], lost: str) -> Head:
    """Call ``attempt`` with the head, and with the newer one whenever another publish came first.

    What seems damaged may only have been collected since the head was read; so after `Damaged` the head is
    read again, and the error stands only if it is still the same.

    Args:
        attempt: publishes upon the head it is given, or returns it when there is nothing to do.
        lost: what to do about it when the race was lost too often.

    Returns:
        The head that ``attempt`` returned.

    Raises:
        Contended: other machines published first, too often.
    """
    for races in range(MAX_RACES):
        try:
            outcome = attempt(head)
        except Damaged:
            outcome = Raced(observe.load_head(ws))
            if outcome.head.etag == head.etag:
                raise
        if isinstance(outcome, Head):
            return outcome
        sequence = outcome.head.manifest.sequence
        ws.progress.note(f"another machine published first (sequence {sequence}); planning again")
        ws.sleep(1 + ws.jitter(min(2.0**races, 15.0)))
        head = observe.load_head(ws)
    raise Contended(f"lost the race for the head {MAX_RACES} times; nothing of this run was published", lost)


def load_reflected_head(ws: Workspace, scope: Scope) -> tuple[Head, LostPages]:
    """The head of the bucket, and what it holds in ``scope`` brought into the index; and the pages that are
    missing or unreadable although the head that names them is still the head.

    Raises:
        Damaged: too many pages are.
    """
    head = observe.load_head(ws)
    lost = observe.reflect(ws, head, scope)
    for _ in range(MAX_LOOKS):
        if not lost or (latest := observe.load_head(ws)).etag == head.etag:
            break
        head = latest
        lost = observe.reflect(ws, head, scope)
    return head, lost
