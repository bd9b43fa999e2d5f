"""Merging changes into pages: few are made anew, and no path of the result is a folder of another one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest

from manifest_sync.errors import Damaged
from manifest_sync.merge import Change, check_folders, merge_pages
from manifest_sync.model import Entry, Path
from manifest_sync.pagecut import MAX_LENGTH, MIN_LENGTH, is_boundary
from manifest_sync.pages import PageRef
from tests.conftest import Soak
from tests.test_pages import SESSION, cut, file

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


class Head:
    """Pages with what they hold, merged into as pushes do."""

    def __init__(self, runs: Iterable[Sequence[Entry]]) -> None:
        self.held = {_page(run): list(run) for run in runs}
        self.lost: set[PageRef] = set()

    def runs(self) -> list[list[Entry]]:
        return list(self.held.values())

    def entries(self) -> list[Entry]:
        return [entry for run in self.held.values() for entry in run]

    def merge(self, *changes: Change) -> int:
        """How many pages are made that were not there before."""

        def load(page: PageRef) -> list[Entry] | None:
            return None if page in self.lost else before[page]

        before = self.held
        self.held = {}
        for piece in merge_pages(tuple(before), sorted(changes, key=lambda change: change[0]), load):
            if isinstance(piece, PageRef):
                self.held[piece] = before[piece]
            else:
                self.held[_page(piece)] = piece
        return sum(before.get(page) != entries for page, entries in self.held.items())


def _edit(dice: random.Random, entries: Sequence[Entry], kinds: str = "overwrite insert delete") -> Change:
    """One file more, one less, or other content of one."""
    entry = dice.choice(entries)
    kind = dice.choice(kinds.split())
    if kind == "insert":
        path = entry.path + b"-%d" % dice.randrange(1000)
        return Path(path), file(path, chunks=dice.choice((0, 1, 1, 4)))
    return entry.path, None if kind == "delete" else file(entry.path, frame=dice.randrange(1, 999))


def _tree(files: int) -> list[Entry]:
    return sorted(
        (file(b"exp%02d/set/%d.json" % (n // 1000, n % 1000)) for n in range(files)), key=lambda e: e.path
    )


def _old_cut(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Pages as older programs made them: each ends after a boundary, however long it is."""
    runs: list[list[Entry]] = [[]]
    for entry in entries:
        runs[-1].append(entry)
        if is_boundary(entry.path, 1):
            runs.append([])
    return [run for run in runs if run]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of about eight entries."""
    for name, value in (
        ("MIN_LENGTH", 3),
        ("TARGET_LENGTH", 7),
        ("MAX_LENGTH", 14),
        ("BOUNDARY_MODULUS", 60),
    ):
        monkeypatch.setattr(f"manifest_sync.pagecut.{name}", value)


def test_many_small_pushes_make_the_pages_of_a_single_one(soak: Soak, tiny: None) -> None:
    """Hence pages neither crumble nor grow, whatever the pushes were, and it is no matter who pushed what."""
    dice = soak.dice("small pushes")
    for _ in range(soak.count(1, 100)):
        head = Head(cut(_tree(200)))
        for _ in range(1_000):
            changes = dict(_edit(dice, head.entries()) for _ in range(dice.choice((1, 1, 1, 1, 5))))
            if dice.random() < 0.05:
                place = dice.choice(head.entries()).path
                changes |= {Path(p): file(p) for p in (place + b"/%d" % n for n in range(30))}
            head.merge(*changes.items())
            assert head.runs() == cut(head.entries())


def test_one_overwrite_makes_one_page_and_another_change_seldom_more() -> None:
    dice = random.Random("edits")
    head = Head(cut(_tree(20_000)))
    for _ in range(20):
        assert head.merge(_edit(dice, head.entries(), "overwrite")) == 1
    made = [head.merge(_edit(dice, head.entries(), "insert delete")) for _ in range(60)]
    assert sum(made) / len(made) <= 1.2


def test_a_change_in_old_pages_leaves_those_behind_them_alone() -> None:
    """Longer pages of older programs are cut where a change falls, until one of their ends may be an end."""
    dice = random.Random("old")
    old = _old_cut(_tree(60_000))
    assert max(map(len, old)) > 4_000
    rewritten = []
    for _ in range(40):
        head = Head(old)
        head.merge(_edit(dice, head.entries()))
        made = [run for run in head.runs() if run not in old]
        assert all(MIN_LENGTH <= len(run) <= MAX_LENGTH for run in made if run[-1] != head.entries()[-1])
        rewritten.append(sum(map(len, made)))
    assert sum(rewritten) / len(rewritten) <= 7_000
    assert max(rewritten) <= 20_000


def test_what_a_lost_page_cut_off_grows_together_again(tiny: None) -> None:
    head = Head(cut(_tree(100)))
    pages = list(head.held)
    head.lost = {pages[3]}
    short = Path(pages[2].last)
    changes = [(entry.path, None) for entry in head.held[pages[2]][:-1]]
    head.merge(*changes)
    assert [len(run) for run in head.runs()][2] == 1, "too short, for what follows cannot be opened"
    head.lost = set()
    head.merge((short, file(short, frame=7)))
    assert head.runs() == cut(head.entries())
