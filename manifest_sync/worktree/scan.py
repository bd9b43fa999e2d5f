"""Looking at the tree, one folder at a time; nothing is read but names and stats."""

from __future__ import annotations

import errno
import marshal
import os
import stat as st
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from manifest_sync.model import MAX_PATH, Path, Stat
from manifest_sync.ownership import Ownership
from manifest_sync.scope import Scope
from manifest_sync.worktree.folders import Folders
from manifest_sync.worktree.outcomes import TargetBlocked, reason_of

Known = Callable[[Path], tuple[bytes, bool] | None]
# Name, then mode, size, mtime, ctime, inode; plain values, so that a folder's digest is one C call.
_Found = tuple[str, int, int, int, int, int]

# marshal's later versions mark repeated objects, so that equal listings would give different bytes.
_MARSHAL_VERSION = 2


@dataclass(frozen=True, slots=True)
class Listing:
    """What one folder holds.

    ``digest`` changes whenever a name or a stat in the folder does, or what git tracks there, or the
    rules. With ``unchanged`` it is the digest of last time, ``files`` and ``special`` are empty and
    ``n_files`` and ``n_bytes`` count every file there, ours or not.
    """

    folder: Path
    digest: bytes = b""
    mounted: bool = False
    """Whether it is on another device than the root (the root: than the local state)."""
    unchanged: bool = False
    files: list[tuple[bytes, Stat]] = field(default_factory=list)
    """Regular files that are ours, and symlinks where they are kept; in and out of the scope alike."""
    folders: list[bytes] = field(default_factory=list)
    """Names of the folders that are entered."""
    all_folders: list[bytes] = field(default_factory=list)
    """Names of all folders there are, those that are not ours or not in scope too."""
    special: list[bytes] = field(default_factory=list)
    """Names that are ours by their path and never sent: fifo, socket, device, skipped symlink."""
    too_long: list[bytes] = field(default_factory=list)
    """Names of files and folders that are ours and cannot be sent, because no path may be that long."""
    complete: bool = True
    """Whether every folder in it that is ours is in ``folders``; a limited scope leaves some out."""
    unseen: str = ""
    """Why it could not be looked into: then nothing in or below it counts as deleted. '' when it could."""
    n_files: int = 0
    n_bytes: int = 0


class Scanner:
    """One scan's fixed part."""

    def __init__(
        self,
        root: bytes,
        state_device: int,
        ownership: Ownership,
        scope: Scope,
        known: Known,
        skippable: Callable[[Path], bool],
        *,
        symlinks: str,
        trust_ctime: bool,
        trust_inode: bool,
    ) -> None:
        self._folders = Folders(root)
        self._state_device = state_device
        self._root_device = -1
        self._ownership = ownership
        self._scope = scope
        self._known = known
        self._skippable = skippable
        self._symlinks = symlinks
        self._ctime = trust_ctime
        self._inode = trust_inode

    def run(self) -> Iterator[Listing]:
        """Yield the folders in scope, each before those in it. A missing root yields nothing."""
        try:
            self._folders.open(Path(b""))
            self._root_device = self._folders.device(Path(b""))
        except FileNotFoundError:
            return
        except OSError as error:
            yield Listing(Path(b""), unseen=reason_of(error), complete=False)
            return
        try:
            if self._scope.only:
                yield from self._limited(self._scope.only)
            else:
                yield from self._walk(Path(b""))
        finally:
            self._folders.close()

    def _limited(self, only: tuple[Path, ...]) -> Iterator[Listing]:
        """A chosen folder is walked; for a file, or what is not there, the folder around it is listed."""
        walked: set[Path] = set()
        listed: set[Path] = set()
        for path in sorted(only):
            if any(path == done or path.startswith(done + b"/") for done in walked):
                continue
            folder, missing = self._nearest(path)
            if folder is None:
                continue
            if not missing:
                walked.add(path)
                yield from self._walk(path)
            elif folder not in listed:
                listed.add(folder)
                yield self._list(folder, recursive=False)

    def _nearest(self, path: Path) -> tuple[Path | None, bool]:
        """The deepest existing folder on the way to ``path``, and whether that is above it.

        None where a folder on the way is not ours.
        """
        folder = Path(b"")
        position = 0
        while position >= 0:
            position = path.find(b"/", position + 1)
            here = Path(path if position < 0 else path[:position])
            try:
                self._folders.open(here, check=False)
            except TargetBlocked:
                return None, True
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                    return folder, True
                # There and not to be entered: its own listing says so.
            if self._ownership.folder_excluded(here):
                return None, True
            folder = here
        return folder, False

    def _walk(self, top: Path) -> Iterator[Listing]:
        pending = [top]
        while pending:
            folder = pending.pop()
            listing = self._list(folder, recursive=True)
            if listing.folders:
                prefix = folder + b"/" if folder else b""
                pending.extend(Path(prefix + name) for name in reversed(listing.folders))
            yield listing

    def _list(self, folder: Path, *, recursive: bool) -> Listing:
        try:
            descriptor = self._folders.open(folder, check=False)
            device = self._folders.device(folder)
            found, names = self._read(descriptor)
        except TargetBlocked as error:
            return Listing(folder, complete=False, unseen=error.reason)
        except OSError as error:
            return Listing(folder, complete=False, unseen=reason_of(error))
        mounted = device != (self._root_device if folder else self._state_device)
        known = self._known(folder)
        if known is not None and known[1] != mounted:
            return Listing(
                folder,
                mounted=mounted,
                complete=False,
                unseen="it is on another device than last time",
            )
        digest = self._digest(folder, found, names)
        everything = [os.fsencode(name) for name in names]
        entered, left_out, long_folders = self._enter(folder, everything) if recursive else ([], True, [])
        if known is not None and known[0] == digest and self._skippable(folder):
            plain = [entry[2] for entry in found if st.S_ISREG(entry[1])]
            return Listing(
                folder,
                digest,
                mounted,
                True,
                folders=entered,
                all_folders=everything,
                complete=not left_out,
                n_files=len(plain),
                n_bytes=sum(plain),
            )
        files, special, too_long = self._sort(folder, found)
        return Listing(
            folder,
            digest,
            mounted,
            False,
            files,
            entered,
            everything,
            special,
            too_long + long_folders,
            not left_out,
            "",
            len(files),
            sum(stat.size for _, stat in files),
        )

    def _read(self, descriptor: int) -> tuple[list[_Found], list[str]]:
        """The folder's files with their stats, and the names of its folders."""
        found: list[_Found] = []
        names: list[str] = []
        follow = self._symlinks == "follow"
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        names.append(entry.name)
                        continue
                    stat = entry.stat(follow_symlinks=False)
                    if follow and st.S_ISLNK(stat.st_mode):
                        stat = _target_stat(entry.name, descriptor, stat)
                except FileNotFoundError:
                    continue
                found.append(
                    (
                        entry.name,
                        stat.st_mode,
                        stat.st_size,
                        stat.st_mtime_ns,
                        stat.st_ctime_ns,
                        stat.st_ino,
                    )
                )
        found.sort()
        names.sort()
        return found, names

    def _digest(self, folder: Path, found: list[_Found], names: list[str]) -> bytes:
        listed: list[_Found] | list[tuple[str, int, int, int, int, int]] = found
        if not (self._ctime and self._inode):
            # What is not trusted must not make every folder look new.
            listed = [(e[0], e[1], e[2], e[3], e[4] * self._ctime, e[5] * self._inode) for e in found]
        tracked = sorted(self._ownership.tracked_in(folder))
        facts = (self._ownership.digest, self._symlinks, tracked, names, listed)
        return blake3(marshal.dumps(facts, _MARSHAL_VERSION)).digest()

    def _enter(self, folder: Path, names: list[bytes]) -> tuple[list[bytes], bool, list[bytes]]:
        """Names to enter, whether the scope leaves any out, and those whose path is too long."""
        prefix = folder + b"/" if folder else b""
        entered: list[bytes] = []
        too_long: list[bytes] = []
        left_out = False
        for name in names:
            path = Path(prefix + name)
            if self._ownership.folder_excluded(path):
                continue
            if len(path) > MAX_PATH - 2:
                too_long.append(name)
            elif self._scope.enters(path):
                entered.append(name)
            else:
                left_out = True
        return entered, left_out, too_long

    def _sort(
        self, folder: Path, found: list[_Found]
    ) -> tuple[list[tuple[bytes, Stat]], list[bytes], list[bytes]]:
        """The folder's files, what is special, and what has too long a path."""
        prefix = folder + b"/" if folder else b""
        keep = self._symlinks == "keep"
        files: list[tuple[bytes, Stat]] = []
        special: list[bytes] = []
        too_long: list[bytes] = []
        is_ours = self._ownership.file_is_ours
        for text, mode, size, mtime, ctime, inode in found:
            name = os.fsencode(text)
            path = Path(prefix + name)
            if not is_ours(path):
                continue
            if not (st.S_ISREG(mode) or (keep and st.S_ISLNK(mode))):
                special.append(name)
            elif len(path) > MAX_PATH:
                too_long.append(name)
            else:
                files.append((name, Stat(size, mtime, ctime, inode, mode)))
        return files, special, too_long


def _target_stat(name: str, descriptor: int, link: os.stat_result) -> os.stat_result:
    """Of what a symlink leads to when that is a regular file, else of the link itself."""
    try:
        target = os.stat(name, dir_fd=descriptor)
    except OSError:
        return link
    return target if st.S_ISREG(target.st_mode) else link
