"""Scanning the worktree: one folder at a time, streamed, each with a digest of its listing."""

from __future__ import annotations

import marshal
import os
import stat as st
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from manifest_sync.model import Path, Stat
from manifest_sync.ownership import Ownership
from manifest_sync.pathrules import check_path
from manifest_sync.scope import Scope
from manifest_sync.worktree.paths import Folders, TargetBlocked, split

FolderKnown = Callable[[Path], tuple[bytes, bool] | None]


@dataclass(slots=True)
class Listing:
    """One folder as it was found."""

    folder: Path
    digest: bytes = b""
    mounted: bool = False
    """Whether the folder lies on another device than the root (the root: than the local state)."""
    unchanged: bool = False
    files: list[tuple[bytes, Stat]] = field(default_factory=list)
    """Regular files and kept symlinks that are ours; empty when ``unchanged``."""
    folders: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    """Names that are ours but never sent: fifos, sockets, devices, skipped symlinks, impossible names."""
    complete: bool = True
    """False when the folders in it were not entered."""
    unseen: str = ""
    """Why nothing in this folder may count as deleted; empty when it was seen."""
    n_files: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan depends on besides the tree."""

    symlinks: str
    trust_ctime: bool
    trust_inode: bool
    root_device: int
    state_device: int


def scan_tree(
    folders: Folders,
    options: ScanOptions,
    scope: Scope,
    ownership: Ownership,
    folder_known: FolderKnown,
    skippable: Callable[[Path], bool],
) -> Iterator[Listing]:
    """Listings of every folder in scope, parents before what is in them."""
    scanner = _Scanner(options, ownership, folder_known, skippable)
    if not scope.only:
        yield from scanner.walk(folders, Path(b""), scope)
        return
    shallow: set[bytes] = set()
    for path in scope.only:
        folder: bytes = path
        while True:
            try:
                folders.descriptor(folder)
                break
            except (FileNotFoundError, TargetBlocked, NotADirectoryError):
                folder = split(folder)[0]
        if folder == path:
            yield from scanner.walk(folders, path, scope)
        elif folder not in shallow:
            shallow.add(folder)
            listing = scanner.list_folder(folders.descriptor(folder), Path(folder), scope)
            listing.complete = False
            yield listing


class _Scanner:
    def __init__(
        self,
        options: ScanOptions,
        ownership: Ownership,
        folder_known: FolderKnown,
        skippable: Callable[[Path], bool],
    ) -> None:
        self._options = options
        self._ownership = ownership
        self._known = folder_known
        self._skippable = skippable

    def walk(self, folders: Folders, start: Path, scope: Scope) -> Iterator[Listing]:
        """Everything at and below ``start``, without recursion."""
        if start and self._is_excluded_above(start):
            return
        stack = [start]
        while stack:
            folder = stack.pop()
            try:
                descriptor = folders.descriptor(folder)
            except (OSError, TargetBlocked) as error:
                yield Listing(folder, unseen=f"the folder cannot be read: {_why(error)}")
                continue
            listing = self.list_folder(descriptor, folder, scope)
            yield listing
            if not listing.unseen:
                prefix = folder + b"/" if folder else b""
                stack.extend(Path(prefix + name) for name in reversed(listing.folders))

    def _is_excluded_above(self, path: bytes) -> bool:
        parts = path.split(b"/")
        return any(
            self._ownership.folder_excluded(Path(b"/".join(parts[:n]))) for n in range(1, len(parts) + 1)
        )

    def list_folder(self, descriptor: int, folder: Path, scope: Scope) -> Listing:
        """One folder."""
        options = self._options
        device = os.fstat(descriptor).st_dev
        mounted = device != (options.root_device if folder else options.state_device)
        known = self._known(folder)
        if known is not None and known[1] != mounted:
            return Listing(folder, unseen="the folder is on another device than last time (unmounted?)")
        listing = Listing(folder, mounted=mounted)
        try:
            with os.scandir(descriptor) as entries:
                self._read(entries, folder, scope, listing)
        except OSError as error:
            return Listing(folder, unseen=f"the folder cannot be read: {_why(error)}")
        listing.unchanged = known is not None and known[0] == listing.digest and self._skippable(folder)
        if listing.unchanged:
            listing.files = []
        return listing

    def _read(self, entries: Iterator[os.DirEntry[str]], folder: Path, scope: Scope, out: Listing) -> None:
        options, ownership = self._options, self._ownership
        prefix = folder + b"/" if folder else b""
        is_long = len(prefix) > 3800
        rows: list[tuple[bytes, int, int, int, int, int]] = []
        for entry in entries:
            name = os.fsencode(entry.name)
            path = Path(prefix + name)
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            mode = found.st_mode
            if st.S_ISDIR(mode):
                if scope.enters(path) and not ownership.folder_excluded(path):
                    out.folders.append(name)
                continue
            if not ownership.file_is_ours(path):
                continue
            if st.S_ISLNK(mode) and options.symlinks == "follow":
                try:
                    found = entry.stat(follow_symlinks=True)
                except OSError:
                    out.special.append(name)
                    continue
                mode = found.st_mode
            is_sent = st.S_ISREG(mode) or (st.S_ISLNK(mode) and options.symlinks == "keep")
            if not is_sent or ((is_long or len(name) > 255) and check_path(path)):
                out.special.append(name)
                continue
            rows.append((name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, mode))
        rows.sort()
        out.folders.sort()
        out.special.sort()
        out.n_files = len(rows)
        out.n_bytes = sum(row[1] for row in rows)
        out.digest = self._digest(rows, out, folder)
        out.files = [(r[0], Stat(r[1], r[2], r[3], r[4], r[5])) for r in rows]

    def _digest(self, rows: list[tuple[bytes, int, int, int, int, int]], out: Listing, folder: Path) -> bytes:
        """Equal digests mean that nothing that a row is compared by has moved."""
        options = self._options
        if not (options.trust_ctime and options.trust_inode):
            rows = [
                (n, s, m, c if options.trust_ctime else 0, i if options.trust_inode else 0, mode)
                for n, s, m, c, i, mode in rows
            ]
        tracked = sorted(self._ownership.tracked_in(folder))
        listing = marshal.dumps((rows, out.folders, out.special, tracked, self._ownership.digest), 2)
        return blake3(listing).digest()


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
