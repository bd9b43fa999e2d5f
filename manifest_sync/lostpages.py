"""Pages of a head that cannot be read: what is hidden by that, and what is not. Pure.

What such a page lists is not known. So no case holds for a path in its range, nor for one that could be the
folder of something listed there, or lie in something listed there as a file.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from manifest_sync.model import Path, display
from manifest_sync.pages import PageRef

Range = tuple[bytes, bytes]
"""A half-open range of path bytes."""
_NONE: Mapping[PageRef, str] = MappingProxyType({})


class LostPages:
    """Some pages of one head, and what is wrong with each."""

    def __init__(self, reasons: Mapping[PageRef, str] = _NONE) -> None:
        self.reasons = reasons
        self._pages = sorted(reasons, key=lambda page: page.first)
        self._first = [page.first for page in self._pages]
        self._last = [page.last for page in self._pages]

    def __bool__(self) -> bool:
        return bool(self._pages)

    def hides(self, path: bytes) -> bool:
        """Whether what the head says of ``path``, or of what may clash with it, is not known."""
        if self._at(path) or self._touch(path + b"/", path + b"0"):
            return True
        end = path.find(b"/")
        while end >= 0:
            page = self._at(path[:end])
            # What has something below it in the page itself is a folder there, and no file.
            below = path[: end + 1]
            if page is not None and not page.first.startswith(below) and not page.last.startswith(below):
                return True
            end = path.find(b"/", end + 1)
        return False

    def known(self, ranges: Iterable[Range]) -> list[Range]:
        """What is left of sorted, disjoint ranges without those of the pages."""
        left: list[Range] = []
        for low, high in ranges:
            start = low
            for page in self._touch(low, high):
                if start < page.first:
                    left.append((start, page.first))
                start = max(start, page.last + b"\x00")
            if start < high:
                left.append((start, high))
        return left

    def damages(self, ranges: Iterable[Range]) -> list[tuple[Path, str]]:
        """What a report says of the pages that touch ``ranges``: the first path of each, and the reason."""
        found = {page.first: page for low, high in ranges for page in self._touch(low, high)}
        return [
            (first, f"this and what follows up to {display(page.last)}, {page.files} in all: {what}")
            for first, page in sorted(found.items())
            for what in [self.reasons[page]]
        ]

    def _at(self, path: bytes) -> PageRef | None:
        """The page whose range holds a path."""
        number = bisect_right(self._first, path) - 1
        return self._pages[number] if number >= 0 and path <= self._last[number] else None

    def _touch(self, low: bytes, high: bytes) -> list[PageRef]:
        """The pages that a half-open range touches."""
        return self._pages[bisect_left(self._last, low) : bisect_left(self._first, high)]
