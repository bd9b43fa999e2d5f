"""What differs between two states of the tree, and which pages have to be opened to see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manifest_sync.model import SPECIAL, UNREAD, Entry, EntryType, Hash, Path, Stat, State
from manifest_sync.pages import PageRef

Range = tuple[bytes, bytes]
"""Half-open range of path bytes."""


class Kind(StrEnum):
    """What became of a path."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Version:
    """A path on one side. ``type`` is ``file``, ``symlink``, or ``other`` for what is never sent.

    Of something ``other`` nothing more is known; ``hash`` is None too for a new file that nobody has read,
    and ``host`` (who sent it) is empty for what is here.
    """

    type: str
    size: int | None = None
    mtime_ns: int | None = None
    mode: int | None = None
    hash: Hash | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs; at least one side is there."""

    path: Path
    before: Version | None
    after: Version | None

    @property
    def kind(self) -> Kind:
        """Whether the path came, went, or changed."""
        if self.before is None:
            return Kind.ADDED
        return Kind.DELETED if self.after is None else Kind.CHANGED


def version_of(entry: Entry) -> Version:
    """The side of an entry in the bucket."""
    return Version(entry.type.value, entry.size, entry.mtime_ns, entry.mode, entry.hash, entry.writer.host)


def version_here(state: State, stat: Stat | None) -> Version:
    """The side of a path of the worktree."""
    if state == SPECIAL or stat is None:
        return Version("other")
    kind = EntryType.SYMLINK if state[:1] == b"l" else EntryType.FILE
    digest = None if state == UNREAD else Hash(state[1:])
    return Version(kind.value, stat.size, stat.mtime_ns, stat.mode & 0o777, digest)


def compare_entries(before: Iterable[Entry], after: Iterable[Entry]) -> Iterator[Difference]:
    """The paths whose state differs, in path order; both sides come in path order."""
    olds, news = iter(before), iter(after)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.path < new.path):
            assert old is not None
            yield Difference(old.path, version_of(old), None)
            old = next(olds, None)
        elif old is None or new.path < old.path:
            yield Difference(new.path, None, version_of(new))
            new = next(news, None)
        else:
            if old.state != new.state:
                yield Difference(old.path, version_of(old), version_of(new))
            old, new = next(olds, None), next(news, None)


def different_pages(
    before: Sequence[PageRef], after: Sequence[PageRef]
) -> tuple[list[PageRef], list[PageRef]]:
    """The pages of each side that the other does not have: equal ids are equal entries."""
    common = {page.id for page in before} & {page.id for page in after}
    return [p for p in before if p.id not in common], [p for p in after if p.id not in common]


def spans_of(pages: Iterable[PageRef]) -> list[Range]:
    """What the pages reach over, in order and without overlaps."""
    spans: list[Range] = []
    for low, high in sorted((page.first, page.last + b"\0") for page in pages):
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], high))
        else:
            spans.append((low, high))
    return spans


def split_ranges(ranges: Iterable[Range], spans: Sequence[Range]) -> Iterator[tuple[Range, bool]]:
    """The ranges cut where spans begin and end, in order, and whether each piece lies in a span.

    Both come sorted and without overlaps.
    """
    for low, high in ranges:
        reached = low
        for first, end in spans:
            if end <= reached or first >= high:
                continue
            if first > reached:
                yield (reached, first), False
            yield (max(first, reached), min(end, high)), True
            reached = min(end, high)
        if reached < high:
            yield (reached, high), False
