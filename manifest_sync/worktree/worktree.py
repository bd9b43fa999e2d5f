"""The worktree: the only code that touches the user's files."""

from __future__ import annotations

import errno
import os
import stat as st
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blake3 import blake3

from manifest_sync.model import STATE_FOLDER, Hash, Path, Stat, display
from manifest_sync.ownership import Ownership
from manifest_sync.scope import Scope
from manifest_sync.worktree.paths import (
    Changing,
    Folders,
    TargetBlocked,
    Unreadable,
    Vanished,
    make_stat,
    split,
)
from manifest_sync.worktree.replace import Replacer, Staged, Staging, as_error
from manifest_sync.worktree.scan import FolderKnown, Listing, ScanOptions, scan_tree

HASH_TRIES = 3
_BLOCK = 1 << 20


class Reader:
    """One open file: its stat when it was opened, its bytes, and whether it held still."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.stat = make_stat(os.fstat(descriptor))

    def read(self, length: int) -> bytes:
        """At most ``length`` bytes; less only at the end of the file."""
        block = os.read(self._descriptor, length)
        if len(block) == length or not block:
            return block
        parts = [block]
        left = length - len(block)
        while left and (block := os.read(self._descriptor, left)):
            parts.append(block)
            left -= len(block)
        return b"".join(parts)

    def unchanged(self) -> bool:
        """Whether the file's stat is what it was when it was opened."""
        return make_stat(os.fstat(self._descriptor)) == self.stat


class Worktree:
    """One tree of files under ``root``.

    Args:
        root: the folder, absolute.
        state_dir: this project's local state; staging and trash lie there if it is on the root's device.
        symlinks: ``skip``, ``follow`` (a link to a file is sent as that file) or ``keep``.
        trust_ctime, trust_inode: whether a changed ctime or inode means a changed file.
    """

    def __init__(
        self,
        root: str,
        state_dir: str,
        *,
        symlinks: str = "skip",
        trust_ctime: bool = True,
        trust_inode: bool = True,
    ) -> None:
        self.root = root
        self.trust_ctime = trust_ctime
        self._state_dir = state_dir
        self._symlinks = symlinks
        self._trust_inode = trust_inode
        self._folders = Folders(root)
        self._replacer: Replacer | None = None

    def exists(self) -> bool:
        """Whether the root is there and is a folder."""
        return os.path.isdir(self.root)

    def make_root(self) -> None:
        """Make the root if it is missing."""
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise as_error(error, self.root) from error

    def close(self) -> None:
        """Close the folders that are kept open."""
        self._folders.close()

    def _local_dir(self, name: str) -> str:
        """A folder for our own files on the root's device."""
        base = self._state_dir
        if self.exists() and os.stat(base).st_dev != os.stat(self.root).st_dev:
            base = os.path.join(self.root, STATE_FOLDER)
            os.makedirs(base, exist_ok=True)
            with open(os.path.join(base, ".gitignore"), "w", encoding="ascii") as ignore:
                ignore.write("*\n")
        folder = os.path.join(base, name)
        os.makedirs(folder, exist_ok=True)
        return folder

    def clock(self) -> int:
        """The filesystem's own time: the mtime, in nanoseconds, of a file written just now."""
        probe = os.path.join(self._local_dir("staging"), "clock")
        try:
            with open(probe, "wb") as file:
                file.write(b"0")
                file.flush()
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            raise as_error(error, probe) from error

    def tick(self) -> None:
        """Wait until the filesystem's clock has moved on (a few milliseconds; two seconds on FAT)."""
        before = self.clock()
        for _ in range(3000):
            if self.clock() > before:
                return
            time.sleep(0.001)

    def free_bytes(self) -> int:
        """Free bytes on the root's device."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def scan(
        self,
        scope: Scope,
        ownership: Ownership,
        folder_known: FolderKnown,
        skippable: Callable[[Path], bool],
    ) -> Iterator[Listing]:
        """Listings of the folders in scope; see `scan.Listing`. An absent root has none."""
        if not self.exists():
            return
        options = ScanOptions(
            symlinks=self._symlinks,
            trust_ctime=self.trust_ctime,
            trust_inode=self._trust_inode,
            root_device=os.stat(self.root).st_dev,
            state_device=os.stat(self._state_dir).st_dev,
        )
        yield from scan_tree(self._folders, options, scope, ownership, folder_known, skippable)

    def lstat(self, path: Path) -> Stat | None:
        """The stat of a path, links not followed; None when there is nothing."""
        try:
            return self._folders.lstat(path)
        except OSError as error:
            raise as_error(error, display(path)) from error

    @contextmanager
    def open_read(self, path: Path) -> Iterator[Reader]:
        """Open a regular file for reading.

        Raises:
            Vanished: it is gone. Unreadable: it may not be read, or is no regular file.
        """
        descriptor = self._open(path)
        try:
            yield Reader(descriptor)
        except OSError as error:
            raise Unreadable(f"it cannot be read: {error.strerror or error}") from error
        finally:
            os.close(descriptor)

    def _open(self, path: Path) -> int:
        folder, name = split(path)
        # O_NONBLOCK: a fifo that took a file's place must not hang the run.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        if self._symlinks != "follow":
            flags |= os.O_NOFOLLOW
        try:
            descriptor = os.open(name, flags, dir_fd=self._folders.descriptor(folder))
        except (FileNotFoundError, NotADirectoryError, TargetBlocked):
            raise Vanished from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unreadable("it is a symlink now") from None
            raise Unreadable(f"it cannot be read: {error.strerror}") from None
        if not st.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Unreadable("it is not a regular file")
        return descriptor

    def read_link(self, path: Path) -> bytes:
        """The target of a symlink."""
        folder, name = split(path)
        try:
            return os.readlink(name, dir_fd=self._folders.descriptor(folder))
        except OSError:
            raise Vanished from None

    def hash_file(self, path: Path) -> tuple[Hash, Stat]:
        """BLAKE3 of a file that held still meanwhile, and its stat.

        Raises:
            Vanished, Unreadable, Changing: it cannot be had.
        """
        for _ in range(HASH_TRIES):
            with self.open_read(path) as reader:
                hasher = blake3()
                while block := reader.read(_BLOCK):
                    hasher.update(block)
                if reader.unchanged():
                    return Hash(hasher.digest()), reader.stat
        raise Changing

    def same_stat(self, one: Stat, other: Stat) -> bool:
        """Whether two stats give no sign of a change, as far as this filesystem is trusted."""
        return self._replacing().same_stat(one, other)

    def stage(self) -> Staging:
        """A new batch of temporary files."""
        return Staging(self._local_dir("staging"))

    def clean_staging(self) -> None:
        """Remove what a killed run left in the staging folder."""
        folder = self._local_dir("staging")
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))

    def replace(
        self, staged: Staged, path: Path, *, mtime_ns: int, mode: int, expected: Stat | None, run: str
    ) -> tuple[Stat, str | None]:
        """Put a staged file at ``path``, with its mtime and permission bits; see `Replacer.replace`."""
        try:
            os.chmod(staged.path, mode & 0o777)
            os.utime(staged.path, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            raise as_error(error, display(path)) from error
        except OverflowError:
            raise TargetBlocked(f"{display(path)}: this system cannot keep its time") from None
        return self._replacing().replace(staged.path, path, expected=expected, run=run)

    def replace_symlink(
        self, target: bytes, path: Path, *, expected: Stat | None, run: str
    ) -> tuple[Stat, str | None]:
        """Put a symlink at ``path``."""
        if self._symlinks != "keep":
            raise TargetBlocked("it is a symlink, and the configuration does not keep symlinks")
        staging = self._local_dir("staging")
        temporary = os.path.join(staging, f"link-{os.getpid()}")
        try:
            os.symlink(target, os.fsencode(temporary))
        except OSError as error:
            raise as_error(error, display(path)) from error
        return self._replacing().replace(temporary, path, expected=expected, run=run)

    def remove(self, path: Path, *, expected: Stat | None, run: str) -> str:
        """Move a file to the trash; the name it has there. See `Replacer.remove`."""
        return self._replacing().remove(path, expected=expected, run=run)

    def _replacing(self) -> Replacer:
        if self._replacer is None:
            self._replacer = Replacer(
                self._folders,
                self._local_dir("trash"),
                trust_ctime=self.trust_ctime,
                trust_inode=self._trust_inode,
            )
        return self._replacer
