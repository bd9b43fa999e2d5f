"""The last line before a head is published: no path of it is a folder of another one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from manifest_sync.errors import Damaged
from manifest_sync.merge import check_folders, merge_pages
from manifest_sync.model import Entry, Path
from manifest_sync.pages import PageRef
from tests.conftest import Soak
from tests.test_pages import SESSION, file

COMPONENTS = (b"a", b"a-", b"a.b", b"b", b"c")
"""Names that sort before and after the separator: "a-" and "a.b" stand between "a" and "a/b"."""


def _page(entries: Sequence[Entry]) -> PageRef:
    digest = f"{hash(tuple(e.path for e in entries)) & (1 << 64) - 1:064x}"
    return PageRef(digest, SESSION, entries[0].path, entries[-1].path, len(entries), 0, 1, 1)


def _has_pair(paths: set[bytes]) -> bool:
    return any(
        path[:cut] in paths for path in paths for cut in range(len(path)) if path[cut : cut + 1] == b"/"
    )


def _valid(dice: random.Random, count: int) -> list[Path]:
    found: set[bytes] = set()
    for _ in range(count):
        path = _path(dice)
        if not _has_pair({*found, path}):
            found.add(path)
    return [Path(path) for path in sorted(found)]


def _path(dice: random.Random) -> Path:
    return Path(b"/".join(dice.choice(COMPONENTS) for _ in range(dice.randint(1, 4))))


def _cut(dice: random.Random, entries: list[Entry]) -> dict[PageRef, list[Entry]]:
    pages = {}
    while entries:
        size = dice.randint(1, 4)
        pages[_page(entries[:size])] = entries[:size]
        entries = entries[size:]
    return pages


def _pieces(
    dice: random.Random, held: dict[PageRef, list[Entry]], new: list[Path]
) -> Iterator[PageRef | list[Entry]]:
    """The pages with new files merged in; where none falls into a page, it may be kept."""
    left = sorted(new)
    for page, entries in held.items():
        if (gap := [path for path in left if path < page.first]) and dice.random() < 0.5:
            yield [file(path) for path in gap]
            left = left[len(gap) :]
        inside = [path for path in left if path < page.last]
        left = left[len(inside) :]
        if inside or dice.random() < 0.2:
            yield sorted([*entries, *map(file, inside)], key=lambda entry: entry.path)
        else:
            yield page
    if left:
        yield [file(path) for path in left]


@pytest.mark.soak
def test_a_file_and_folder_of_one_name_are_never_published(soak: Soak) -> None:
    """Any small head, any new files: refused exactly when the result would hold such a pair."""
    dice = soak.dice("merge")
    refused = 0
    for _ in range(soak.count(4_000, 400_000)):
        old = _valid(dice, dice.randint(0, 30))
        held = _cut(dice, [file(path) for path in old])
        new = [path for path in {_path(dice) for _ in range(dice.randint(1, 3))} if path not in old]
        passed = check_folders(_pieces(dice, held, new), held.__getitem__)
        if _has_pair({*old, *new}):
            refused += 1
            with pytest.raises(Damaged, match="would be a file"):
                list(passed)
            continue
        pieces = [held[piece] if isinstance(piece, PageRef) else piece for piece in passed]
        assert [entry.path for piece in pieces for entry in piece] == sorted([*old, *new])
    assert refused > 500


def test_pages_that_a_new_file_leaves_alone_stay_closed() -> None:
    """The look at neighbours costs an ordinary push nothing: it opens no page besides those of the merge."""
    names = [[b"exp%d/run%d/%03d.json" % (n // 4, n % 4, k) for k in range(40)] for n in range(16)]
    held = {_page(entries): entries for entries in ([file(path) for path in run] for run in names)}
    looked: list[PageRef] = []

    def look(page: PageRef) -> list[Entry]:
        looked.append(page)
        return held[page]

    new = file(b"exp2/run1/new.json")
    merged = merge_pages(tuple(held), [(new.path, new)], held.__getitem__)
    assert sum(not isinstance(piece, PageRef) for piece in check_folders(merged, look)) > 0
    assert looked == []
