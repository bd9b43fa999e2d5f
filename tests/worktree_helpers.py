"""A worktree in a temporary folder, and short names for what its tests do over and over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FsPath
from typing import Any

from manifest_sync.model import Path, Stat
from manifest_sync.ownership import Ownership
from manifest_sync.scope import Scope
from manifest_sync.worktree import Listing, Worktree

NOBODY = 65534


class Tree:
    """A root folder ``data`` and a state folder beside it."""

    def __init__(self, folder: FsPath, **options: Any) -> None:
        self._slots = 0
        self.root = folder / "data"
        self.state = folder / ".manifest-sync"
        self.root.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.worktree = Worktree(str(self.root), str(self.state), **options)

    def at(self, path: bytes | str) -> bytes:
        return os.path.join(os.fsencode(self.root), os.fsencode(path))

    def write(self, path: bytes | str, content: bytes = b"content", mode: int = 0o644) -> bytes:
        target = self.at(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
        os.chmod(target, mode)
        return target

    def read(self, path: bytes | str) -> bytes:
        with open(self.at(path), "rb") as file:
            return file.read()

    def stat(self, path: bytes) -> Stat:
        found = self.worktree.lstat(Path(path))
        assert found is not None
        return found

    def scan(
        self,
        only: Sequence[bytes] = (),
        *,
        exclude: tuple[str, ...] = (),
        rules: Sequence[str] = (),
        tracked: frozenset[bytes] = frozenset(),
        known: Callable[[Path], tuple[bytes, bool] | None] = lambda folder: None,
        skippable: Callable[[Path], bool] = lambda folder: True,
    ) -> dict[bytes, Listing]:
        scope = Scope(tuple(Path(p) for p in only), exclude)
        ownership = Ownership(rules, {}, (), tracked)
        listings = list(self.worktree.scan(scope, ownership, known, skippable))
        found: dict[bytes, Listing] = {listing.folder: listing for listing in listings}
        assert len(found) == len(listings), "a folder was listed twice"
        return found

    def rescan(self, before: dict[bytes, Listing], **options: Any) -> dict[bytes, Listing]:
        """Scan again with what the last scan found as what is known."""

        def known(folder: Path) -> tuple[bytes, bool] | None:
            listing = before.get(folder)
            return None if listing is None else (listing.digest, listing.mounted)

        return self.scan(known=known, **options)

    def put(
        self,
        path: bytes,
        content: bytes = b"new",
        *,
        expected: Stat | None = None,
        mtime_ns: int = 1_700_000_000_123_456_789,
        mode: int = 0o644,
        run: str = "run",
    ) -> tuple[Stat, str | None]:
        """Put content at a path; where in the trash the old content is, None when there was none."""
        kept = self.slot(run)
        with self.worktree.stage() as staging:
            staged = staging.create()
            staged.write_at(0, content)
            staged.close()
            staging.sync()
            stat, was_there = self.worktree.replace(
                staged, Path(path), mtime_ns=mtime_ns, mode=mode, expected=expected, keep_as=kept
            )
            return stat, kept if was_there else None

    def remove(self, path: bytes, *, expected: Stat | None, run: str = "run") -> str:
        """Remove a path; where in the trash it is."""
        kept = self.slot(run)
        self.worktree.remove(Path(path), expected=expected, keep_as=kept)
        return kept

    def slot(self, run: str = "run") -> str:
        """A name in the trash that was not used before."""
        self._slots += 1
        return f"{run}/{self._slots}"

    def trash_path(self, stored: str) -> str:
        return os.path.join(self.worktree._area().trash_path, stored)

    def trashed(self, stored: str) -> bytes:
        with open(self.trash_path(stored), "rb") as file:
            return file.read()

    def snapshot(self) -> list[tuple[bytes, bytes | None]]:
        """Everything below the root: paths, and the contents of files."""
        found: list[tuple[bytes, bytes | None]] = []
        for folder, names, files in os.walk(os.fsencode(self.root)):
            found += [(os.path.join(folder, name), None) for name in names]
            for name in files:
                full = os.path.join(folder, name)
                is_plain = os.path.isfile(full) and not os.path.islink(full)
                found.append((full, FsPath(os.fsdecode(full)).read_bytes() if is_plain else None))
        return sorted(found, key=lambda pair: pair[0])

    def staged_names(self) -> list[str]:
        return [name for name in os.listdir(self.state / "staging") if name != "clock"]


def names(listing: Listing) -> list[bytes]:
    """Names of a listing's files."""
    return [name for name, _ in listing.files]


@contextmanager
def unprivileged_tree(**options: Any) -> Iterator[Tree]:
    """A tree used as an ordinary user: permissions mean nothing to root, so root becomes nobody."""
    is_root = os.geteuid() == 0
    folder = FsPath(tempfile.mkdtemp(prefix="manifest-sync-test-"))
    folder.chmod(0o755)
    if is_root:
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield Tree(folder, **options)
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        for parent, _, _ in os.walk(folder):
            os.chmod(parent, 0o700)
        shutil.rmtree(folder)
