"""When a changed file may be sent while others go on writing: once it holds still. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from manifest_sync.model import Stat

LINE_FILES = (b".jsonl", b".ndjson", b".log")
"""Files that are appended to a line at a time: any whole number of lines is a good state of them."""

_AHEAD_NS = 600 * 1_000_000_000
"""A file that was touched longer than this after the scan began was not: a clock has been set back since."""


@dataclass(frozen=True, slots=True)
class Settle:
    """A file holds still when nothing has touched it for ``ns`` nanoseconds.

    The ctime says when that was, because every write moves it and no program can set it; where ctimes are not
    to be trusted, the mtime does.
    """

    ns: int
    trust_ctime: bool = True

    def is_at_rest(self, stat: Stat, clock: int) -> bool:
        """Whether a file with this stat holds still at ``clock``: the filesystem's time, in nanoseconds."""
        touched = stat.ctime_ns if self.trust_ctime else stat.mtime_ns
        return touched <= clock - self.ns or touched > clock + _AHEAD_NS


def is_line_file(path: bytes) -> bool:
    """Whether a file of that name may be sent while it grows, as far as its last whole line."""
    return path.endswith(LINE_FILES)
