"""Merging changes into the head's pages: only the pages that a change falls in are made anew. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from manifest_sync.errors import Damaged
from manifest_sync.model import Entry, Path, display
from manifest_sync.pages import PageCutter, PageRef

Change = tuple[Path, Entry | None]
"""A path and its new entry; None deletes it."""


def merge_pages(
    pages: Sequence[PageRef],
    changes: Iterable[Change],
    load: Callable[[PageRef], Sequence[Entry] | None],
) -> Iterator[PageRef | list[Entry]]:
    """The pages of the next head, in path order: an old page kept as it is, or the entries of a new one.

    A page is opened only if a change falls between the end of the page before it and its own end, or if
    the run before it did not end where a page must end. Boundaries hang on the paths alone, so the cuts
    meet the old ones again soon after a change.

    Args:
        pages: the head's pages, in path order.
        changes: in path order, each path once.
        load: gives the entries of a page, in path order; None of one that is lost: it stays as it is, and
            what lies beside it is cut off from it.

    Raises:
        Damaged: a change belongs into a page that is lost.
    """
    cutter = PageCutter()
    stream = iter(changes)
    change = next(stream, None)
    for number, page in enumerate(pages):
        is_last = number == len(pages) - 1
        touched = change is not None and (change[0] <= page.last or is_last)
        if not touched and cutter.is_empty:
            yield page
            continue
        entries = load(page)
        if entries is None:
            while change is not None and change[0] < page.first:
                yield from _push(cutter, change[1])
                change = next(stream, None)
            if change is not None and change[0] <= page.last:
                raise Damaged(
                    f"{display(change[0])} belongs into a page of the head that is lost",
                    "`manifest-sync verify` names what is lost and what repairs it",
                )
            if rest := cutter.flush():
                yield rest
            yield page
            continue
        for entry in entries:
            while change is not None and change[0] < entry.path:
                yield from _push(cutter, change[1])
                change = next(stream, None)
            if change is not None and change[0] == entry.path:
                yield from _push(cutter, change[1])
                change = next(stream, None)
            else:
                yield from _push(cutter, entry)
    while change is not None:
        yield from _push(cutter, change[1])
        change = next(stream, None)
    rest = cutter.flush()
    if rest:
        yield rest


def _push(cutter: PageCutter, entry: Entry | None) -> Iterator[list[Entry]]:
    if entry is not None:
        run = cutter.push(entry)
        if run:
            yield run
