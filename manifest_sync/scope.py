"""What a run looks at: the paths of ``--only`` without those of ``--exclude``. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from manifest_sync.errors import UsageError
from manifest_sync.model import MAX_PATH, Path, display
from manifest_sync.pathrules import check_path
from manifest_sync.patterns import NO_MATCH, PatternList, folder_ends

_LAST = b"\xff" * (MAX_PATH + 1)
"""Above every path that is allowed."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the tree that a run looks at; what lies outside is neither sent nor deleted.

    ``only``: files or folders; none, or the empty path among them, means everything. ``exclude``:
    gitignore patterns relative to the root; a folder that one matches is not entered.

    Raises:
        UsageError: a pattern is wrong.
    """

    only: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    _patterns: PatternList = field(init=False, repr=False, compare=False)
    _chosen: frozenset[bytes] = field(init=False, repr=False, compare=False)
    _above: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            patterns = PatternList(self.exclude)
        except ValueError as error:
            raise UsageError(
                f"--exclude {' '.join(self.exclude)}: {error}", "use gitignore patterns, such as '*.tmp'"
            ) from None
        only = () if b"" in self.only else tuple(sorted(set(self.only)))
        above = (path[:cut] for path in only for cut in folder_ends(path))
        object.__setattr__(self, "only", only)
        object.__setattr__(self, "_patterns", patterns)
        object.__setattr__(self, "_chosen", frozenset(only))
        object.__setattr__(self, "_above", frozenset([b"", *above]))

    @classmethod
    def everything(cls) -> Scope:
        """The whole tree."""
        return cls()

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.only and not self.exclude

    def contains(self, path: Path) -> bool:
        """Whether the file ``path`` is looked at."""
        if self.only and not self._is_below_chosen(path):
            return False
        if not self.exclude:
            return True
        return self._patterns.match_file(path) == NO_MATCH and not self._is_below_excluded(path)

    def enters(self, folder: Path) -> bool:
        """Whether ``folder`` lies in the scope or on the way to it; the root always does."""
        if not folder:
            return True
        if self.only and folder not in self._above and not self._is_below_chosen(folder):
            return False
        if not self.exclude:
            return True
        return self._patterns.match_folder(folder) == NO_MATCH and not self._is_below_excluded(folder)

    def covers(self, folder: Path) -> bool:
        """Whether ``--only`` takes all of ``folder``, not merely something below it."""
        return not self.only or self._is_below_chosen(folder)

    def ranges(self) -> list[tuple[bytes, bytes]]:
        """Half-open ranges of path bytes, sorted and disjoint, that hold all of ``only``.

        A path is covered with what lies below it and nothing else. ``exclude`` is not looked at.
        """
        if not self.only:
            return [(b"", _LAST)]
        wanted = sorted(
            pair for path in self.only for pair in ((path, path + b"\x00"), (path + b"/", path + b"0"))
        )
        merged: list[tuple[bytes, bytes]] = []
        for low, high in wanted:
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return merged

    def _is_below_chosen(self, path: bytes) -> bool:
        chosen = self._chosen
        return path in chosen or any(path[:cut] in chosen for cut in folder_ends(path))

    def _is_below_excluded(self, path: bytes) -> bool:
        return any(self._patterns.match_folder(path[:cut]) != NO_MATCH for cut in folder_ends(path))


def parse_scope(names: Iterable[str], root: str) -> list[Path]:
    """Turn names as a person types them into paths below the root that can be looked at; see `parse_path`.

    Raises:
        UsageError: a name is empty or absolute, contains ``..`` or NUL, is too long or reserved.
    """
    paths = [parse_path(name, root) for name in names]
    for path in paths:
        if path and (reason := check_path(path)):
            raise UsageError(f"{display(path)!r} is never looked at: {reason}", "leave it out")
    return paths


def parse_path(name: str, root: str) -> Path:
    """Turn a name as a person types it into a path below the root, whether there can be such a one or not.

    ``./``, doubled and trailing ``/`` are dropped, and so is the root folder's own name in front, so that
    ``aria_rl``, ``experiments/aria_rl/`` and ``./experiments/aria_rl`` mean the same. The root itself
    gives the empty path.

    Args:
        name: text as the command line or a list file gave it.
        root: the root folder relative to the project, as configured.

    Raises:
        UsageError: the name is empty or absolute, or contains ``..`` or NUL.
    """
    root_parts = [part for part in os.fsencode(root).split(b"/") if part not in (b"", b".")]
    raw = os.fsencode(name)
    if not raw or raw.startswith(b"/") or b"\x00" in raw:
        raise UsageError(
            f"{display(raw)!r} does not name a path below {root}",
            f"give a path relative to {root}, such as 'aria_rl' or '{root}/aria_rl'",
        )
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageError(f"{display(raw)!r} contains '..'", f"give a path relative to {root}")
    if root_parts and parts[: len(root_parts)] == root_parts:
        parts = parts[len(root_parts) :]
    return Path(b"/".join(parts))
