"""Which pages of a new head stand where which of the old one stood. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from manifest_sync.pages import PageRef


class Heir(NamedTuple):
    """A page that the old head does not have."""

    page: PageRef
    of: PageRef | None
    """A page of the old head that has no other heir, if there is one."""


def heirs(
    old: Sequence[PageRef],
    new: Sequence[PageRef],
    known: Collection[str],
    is_wanted: Callable[[PageRef], bool],
) -> list[Heir] | None:
    """The new pages, in path order, if what is in them follows from the changes and the ``known`` pages.

    Args:
        old: pages of the head that was published upon, in path order.
        new: pages of the head that came of it: those that no change fell in, and new ones.
        known: ids of the pages whose entries are known.
        is_wanted: whether the entries of a page are to be known when nothing of it was.

    Returns:
        None if ``known`` is of another head, or falls short: of what was in a new page's place, or of a page
        that is wanted.
    """
    before, after = {page.id for page in old}, {page.id for page in new}
    if not before.issuperset(known):
        return None
    if any(page.id in before and page.id not in known and is_wanted(page) for page in new):
        return None
    gone = [page for page in old if page.id not in after]
    made = [page for page in new if page.id not in before]
    places: list[list[PageRef]] = []
    start = 0
    for page in made:
        while start < len(gone) and gone[start].last < page.first:
            start += 1
        end = start
        while end < len(gone) and gone[end].first <= page.last:
            end += 1
        place = gone[start:end]
        if any(other.id not in known for other in place) or not (place or is_wanted(page)):
            return None
        places.append(place)
    shares: dict[str, int] = {}
    for place in places:
        for page in place:
            shares[page.id] = shares.get(page.id, 0) + 1
    return [
        Heir(page, next((other for other in place if shares[other.id] == 1), None))
        for page, place in zip(made, places, strict=True)
    ]
