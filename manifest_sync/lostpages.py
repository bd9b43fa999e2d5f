"""Pages of a head that cannot be read: what is hidden by that, and what is not. Pure.

What such a page lists is not known. So no case holds for a path in its range, nor for one that could be the
folder of something listed there, or lie in something listed there as a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from manifest_sync.model import Path, display
from manifest_sync.pages import PageRef

Range = tuple[bytes, bytes]
"""A half-open range of path bytes."""


@dataclass(frozen=True, slots=True)
class LostPages:
    """Some pages, and what is wrong with each."""

    pages: Mapping[PageRef, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pages)

    def hides(self, path: bytes) -> bool:
        """Whether what the head says of ``path``, or of what may clash with it, is not known."""
        return any(_hides(page, path) for page in self.pages)

    def known(self, ranges: Iterable[Range]) -> list[Range]:
        """What is left of sorted, disjoint ranges without those of the pages."""
        left = list(ranges)
        for page in self.pages:
            low, high = page.first, page.last + b"\x00"
            left = [
                piece
                for start, end in left
                for piece in ((start, min(end, low)), (max(start, high), end))
                if piece[0] < piece[1]
            ]
        return left

    def damages(self, ranges: Iterable[Range]) -> list[tuple[Path, str]]:
        """What a report says of the pages that touch ``ranges``: the first path of each, and the reason."""
        wanted = list(ranges)
        return [
            (page.first, f"this and what follows up to {display(page.last)}, {page.files} in all: {what}")
            for page, what in sorted(self.pages.items(), key=lambda item: item[0].first)
            if any(low <= page.last and page.first < high for low, high in wanted)
        ]


def _hides(page: PageRef, path: bytes) -> bool:
    if page.first <= path <= page.last or (path + b"/" <= page.last and page.first < path + b"0"):
        return True
    end = path.find(b"/")
    while end >= 0:
        folder = path[:end]
        # What has something below it in the page itself is a folder there, and no file.
        below = folder + b"/"
        is_folder = page.first.startswith(below) or page.last.startswith(below)
        if page.first <= folder <= page.last and not is_folder:
            return True
        end = path.find(b"/", end + 1)
    return False
