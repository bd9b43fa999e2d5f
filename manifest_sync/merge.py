"""Merging changes into the head's pages: only the pages that a change falls in are made anew. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from manifest_sync.errors import Damaged
from manifest_sync.model import Entry, Path, display
from manifest_sync.pages import PageCutter, PageRef

Change = tuple[Path, Entry | None]
"""A path and its new entry; None deletes it."""
Load = Callable[[PageRef], Sequence[Entry] | None]
"""Gives the entries of a page, in path order; None of one that is lost."""
_SLASH = ord("/")


def merge_pages(
    pages: Sequence[PageRef],
    changes: Iterable[Change],
    load: Load,
    replaces: Callable[[Entry], None] = lambda _: None,
) -> Iterator[PageRef | list[Entry]]:
    """The pages of the next head, in path order: an old page kept as it is, or the entries of a new one.

    A page is opened only if a change falls between the end of the page before it and its own end, or if
    the run before it did not end where a page must end. Boundaries hang on the paths, so the cuts meet
    the old ones again soon after a change, and the pages come to be those of a first push of the same files.

    Args:
        pages: the head's pages, in path order.
        changes: in path order, each path once.
        load: opens a page. One that is lost stays as it is, and what lies beside it is cut off from it.
        replaces: told of each entry that a change replaces or deletes; may refuse by raising.

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
                replaces(entry)
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


def check_folders(pieces: Iterable[PageRef | list[Entry]], load: Load) -> Iterator[PageRef | list[Entry]]:
    """Pass on the pieces of `merge_pages`, and stop where a path would be a folder of another one.

    The plan has made conflicts of such pairs (case 13); this is the last line before a head is published
    that no machine could bring to its disk. There is no such pair in the head before, so a page that is
    kept is opened only where a new file could be a folder of what it holds, or the other way round.

    Raises:
        Damaged: there is such a pair, so the head holds one already, or what was planned on is wrong.
    """
    kept: list[PageRef] = []
    # The new pages' files that begin the path at hand: between "a" and "a/b" other names sort ("a-b").
    open_files: list[Path] = []
    for piece in pieces:
        if isinstance(piece, PageRef):
            for above in open_files:
                _check_below(above, piece, load)
            kept.append(piece)
        else:
            start, folder = piece[0].path, b""
            for entry in piece:
                path = entry.path
                while open_files and not path.startswith(open_files[-1]):
                    open_files.pop()
                for above in open_files:
                    if path[len(above)] == _SLASH:
                        raise _file_and_folder(above, path)
                open_files.append(path)
                parent = path.rpartition(b"/")[0]
                if parent != folder:
                    folder = parent
                    _check_above(path, start, kept, load)
        yield piece


def _check_below(file: Path, page: PageRef, load: Load) -> None:
    """Refuse a page that is kept and holds something below ``file``."""
    low, high = file + b"/", file + b"0"
    if page.first < high and low <= page.last:
        for entry in load(page) or ():
            if low <= entry.path < high:
                raise _file_and_folder(file, entry.path)


def _check_above(path: Path, start: Path, kept: Sequence[PageRef], load: Load) -> None:
    """Refuse a path one of whose folders is a file in a page kept before ``start``, its own page's first."""
    folder = path.rpartition(b"/")[0]
    while folder:
        number = bisect_right(kept, folder, key=lambda page: page.first) if folder < start else 0
        # What ends below the folder holds no file of that name.
        if number and folder <= (page := kept[number - 1]).last and not page.last.startswith(folder + b"/"):
            for entry in load(page) or ():
                if entry.path == folder:
                    raise _file_and_folder(folder, path)
        folder = folder.rpartition(b"/")[0]


def _file_and_folder(file: bytes, below: bytes) -> Damaged:
    return Damaged(
        f"nothing was published: {display(file)} would be a file and, for {display(below)}, a folder",
        "rename one of them; if there are no such two, run `manifest-sync rebuild-index`",
    )
