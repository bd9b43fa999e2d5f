"""Export to a folder: files as they are in the bucket, with their times and permissions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from manifest_sync.export.destination import OWN_FOLDER, There, Written
from manifest_sync.model import Entry, EntryType, Path, Stat, file_state
from manifest_sync.worktree import (
    Changing,
    Staged,
    TargetBlocked,
    TargetChanged,
    Unreadable,
    Vanished,
    Worktree,
    is_folder,
    is_symlink,
)

_RUN = "1"
"""What is replaced goes through the trash of the temporary state, as everywhere."""


class FolderDestination:
    """Keeps the contract of `Destination` in a folder. What is replaced there is not kept.

    Args:
        worktree: the folder, whose local state is temporary.
    """

    def __init__(self, worktree: Worktree) -> None:
        self.worktree = worktree
        self._clock: int | None = None
        self._stats: dict[Path, Stat] = {}

    @property
    def name(self) -> str:
        """See `Destination`."""
        return f"file://{self.worktree.root}"

    def refuses(self, entry: Entry) -> str:
        """See `Destination`."""
        return "this name is kept for the export itself" if _is_own(entry.path) else ""

    def identity(self, entry: Entry) -> str:
        """See `Destination`."""
        return entry.state.hex()

    def find(self, path: Path) -> There | None:
        """See `Destination`. A folder is none of our files: it is in the way, or empty and gives way."""
        stat = self.worktree.lstat(path)
        return None if stat is None or is_folder(stat) else There(stat.size, _token(stat), stat)

    def holds(self, entry: Entry, there: There) -> tuple[bool | None, str]:
        """See `Destination`. The file is read."""
        assert there.stat is not None
        if self._clock is None:
            self._clock = self.worktree.clock() if self.worktree.exists() else 0
        try:
            if entry.type is EntryType.SYMLINK:
                is_same = is_symlink(there.stat) and self.worktree.read_link(entry.path) == entry.target
                return is_same, there.token
            digest, stat = self.worktree.hash_file(entry.path)
        except (Changing, Unreadable, Vanished):
            return False, ""
        # git's racy rule: what changed in this very tick could change again without a sign.
        is_settled = max(stat.mtime_ns, stat.ctime_ns) < self._clock
        return file_state(digest, stat) == entry.state, _token(stat) if is_settled else ""

    def others(self) -> Iterator[Path]:
        """See `Destination`. What git keeps there is not looked into."""
        if self.worktree.exists():
            for _, files, _, special in self.worktree.iter_names(_enters, {}):
                yield from files
                yield from special

    def write(
        self,
        items: Sequence[tuple[Entry, There | None]],
        staged: dict[Path, Staged],
        done: Callable[[], None],
    ) -> Written:
        """See `Destination`."""
        written = Written({}, set(), {})
        for number, (entry, there) in enumerate(items):
            keep_as = f"{_RUN}/{number}"
            expected = there.stat if there is not None else None
            try:
                if entry.type is EntryType.SYMLINK:
                    stat, replaced = self.worktree.replace_symlink(
                        entry.target, entry.path, expected=expected, keep_as=keep_as
                    )
                else:
                    stat, replaced = self.worktree.replace(
                        staged[entry.path],
                        entry.path,
                        mtime_ns=entry.mtime_ns,
                        mode=entry.mode,
                        expected=expected,
                        keep_as=keep_as,
                    )
            except (TargetChanged, TargetBlocked) as error:
                written.failed[entry.path] = error.reason
            else:
                self._stats[entry.path] = stat
                written.tokens[entry.path] = ""
                if replaced:
                    self.worktree.trash().discard(_RUN, number)
            done()
        self.worktree.sync()
        return written

    def remove(self, paths: Sequence[Path]) -> dict[Path, str]:
        """See `Destination`."""
        failed: dict[Path, str] = {}
        for path in paths:
            try:
                stat = self.worktree.lstat(path)
                if stat is not None:
                    self.worktree.remove(path, expected=stat, keep_as=f"{_RUN}/0")
                    self.worktree.trash().discard(_RUN, 0)
            except (TargetChanged, TargetBlocked, Unreadable) as error:
                failed[path] = error.reason
        return failed

    def finish(self, written: dict[Path, str]) -> dict[Path, str]:
        """See `Destination`: once the clock has moved on, an unmoved stat proves that it is as written."""
        if not written:
            return {}
        self.worktree.tick()
        found: dict[Path, str] = {}
        for path in written:
            stat = self.worktree.lstat(path)
            if stat is not None and self.worktree.same_stat(stat, self._stats[path]):
                found[path] = _token(stat)
        return found


def _token(stat: Stat) -> str:
    return f"{stat.size} {stat.mtime_ns} {stat.ctime_ns} {stat.inode} {stat.mode}"


def _is_own(path: bytes) -> bool:
    return path.partition(b"/")[0] == OWN_FOLDER.encode()


def _enters(folder: Path) -> bool:
    # A folder named .git is refused by the worktree itself.
    return not _is_own(folder)
