"""The worktree: the only code that touches the user's files."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial

from manifest_sync.model import Hash, Path, Stat
from manifest_sync.ownership import Ownership
from manifest_sync.scope import Scope
from manifest_sync.worktree import read
from manifest_sync.worktree.folders import Folders, split
from manifest_sync.worktree.mounts import mount_of
from manifest_sync.worktree.outcomes import TargetBlocked, disk_failure, read_failure
from manifest_sync.worktree.read import Reader
from manifest_sync.worktree.replace import Replacer, make_own_folder
from manifest_sync.worktree.scan import Known, Listing, Scanner
from manifest_sync.worktree.staging import Area, Staged, Staging
from manifest_sync.worktree.syscalls import sync_filesystem
from manifest_sync.worktree.traits import Traits, probe_filesystem
from manifest_sync.worktree.trash import RunWriter, Trash
from manifest_sync.worktree.walk import Names, iter_names

_TICK_SECONDS = 3.0
_NO_CLOCK = -(2**63)
"""Before every time a file can have: no stat is trusted."""


class Worktree:
    """One tree of files under ``root``. Not thread-safe.

    No path leads out of it: folders are entered by descriptor without following symlinks, and names
    that stand for ``.git`` or ``.manifest-sync`` are refused. With ``symlinks='follow'`` a link to a
    regular file, wherever that lies, is read as that file; a link to a folder is never entered.

    Args:
        root: the folder, absolute.
        state_dir: this project's local state; staging and trash lie there if it is on the root's device or
            the root is mounted read-only, else in ``.manifest-sync`` in the root.
        symlinks: ``skip``, ``follow`` or ``keep``.
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
        self.trust_inode = trust_inode
        self._state_dir = state_dir
        self._symlinks = symlinks
        self._follow = symlinks == "follow"
        self._same = partial(read.same_stat, trust_ctime=trust_ctime, trust_inode=trust_inode)
        self._folders = Folders(os.fsencode(root))
        self._own_area: Area | None = None
        self._own_replacer: Replacer | None = None

    def exists(self) -> bool:
        """Whether the root is there and is a folder."""
        return os.path.isdir(self.root)

    def inode(self) -> int | None:
        """The inode number of the root, or of the folder that it is a symlink to; None when it is missing."""
        try:
            found = os.stat(self.root)
        except OSError:
            return None
        return found.st_ino if stat.S_ISDIR(found.st_mode) else None

    def make_root(self) -> bool:
        """Make the root if it is missing; returns whether it was.

        Raises:
            ManifestSyncError: it cannot be made.
        """
        try:
            was_missing = not self.exists()
            os.makedirs(self.root, exist_ok=True)
            return was_missing
        except OSError as error:
            raise disk_failure(os.fsencode(self.root), error) from error

    def close(self) -> None:
        """Close what is kept open; the next use opens it again."""
        self._folders.close()
        if self._own_replacer is not None:
            self._own_replacer.close()
        if self._own_area is not None:
            self._own_area.close()
        self._own_area = self._own_replacer = None

    def clock(self) -> int:
        """The filesystem's own time: the mtime, in nanoseconds, of a file touched just now.

        A root that is mounted read-only can be looked at all the same. What changes it goes by this machine's
        clock, as the local state does; only where that may be another machine there is no telling the time.

        Raises:
            ManifestSyncError: nothing can be written there.
        """
        if self._is_read_only():
            mount = mount_of(self.root)
            if mount is None or mount.is_network or mount.is_fuse:
                return _NO_CLOCK
        try:
            folder = self._area().staging if self.exists() else None
            name = "clock" if folder is not None else os.path.join(self._state_dir, "clock")
            probe = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                # Not written to: with a time of None the filesystem, or the file server, takes its own.
                os.utime(probe)
                return os.fstat(probe).st_mtime_ns
            finally:
                os.close(probe)
        except OSError as error:
            raise disk_failure(os.fsencode(self._state_dir), error) from error

    def tick(self) -> int:
        """Wait until the filesystem's clock is past what it says now, and return it.

        That takes some milliseconds, two seconds on FAT. More than three seconds are not waited for: what was
        written just now stays suspect.
        """
        now = before = self.clock()
        give_up = time.monotonic() + _TICK_SECONDS
        while now <= before and time.monotonic() < give_up:
            time.sleep(0.001)
            now = self.clock()
        return now

    def traits(self) -> Traits:
        """What the root's filesystem does and does not do, tried out in staging.

        Raises:
            ManifestSyncError: nothing can be written there.
        """
        area = self._area()
        try:
            return probe_filesystem(area.staging_path)
        except OSError as error:
            raise disk_failure(os.fsencode(area.staging_path), error) from error

    def free_bytes(self) -> int:
        """Free bytes on the root's device."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def iter_names(self, enters: Callable[[Path], bool], skipped: dict[Path, str]) -> Iterator[Names]:
        """Every name there is, whoever owns it; see `walk.iter_names`."""
        return iter_names(self._folders, enters, skipped)

    def scan(
        self,
        scope: Scope,
        ownership: Ownership,
        folder_known: Known,
        skippable: Callable[[Path], bool],
    ) -> Iterator[Listing]:
        """Listings of the folders in scope, each before those in it; an absent root has none.

        Args:
            folder_known: the digest of a folder's last listing and whether it was mounted, or None.
            skippable: whether a folder with the digest of last time needs no list of its files.
        """
        return Scanner(
            os.fsencode(self.root),
            os.stat(self._state_dir).st_dev,
            ownership,
            scope,
            folder_known,
            skippable,
            symlinks=self._symlinks,
            trust_ctime=self.trust_ctime,
            trust_inode=self.trust_inode,
        ).run()

    def lstat(self, path: Path) -> Stat | None:
        """What is at a path, as a scan sees it; None when nothing is, or a parent is no folder.

        Raises:
            Unreadable: the path has a name that is never touched.
            AccessDenied, ManifestSyncError: a folder on the way cannot be entered.
        """
        return read.lstat(self._folders, path, follow=self._follow)

    def open_read(self, path: Path) -> Reader:
        """Open a regular file for reading, as a context manager.

        Raises:
            Vanished, Unreadable: it is gone; it may not be read or is no regular file.
        """
        return read.open_read(self._folders, path, follow=self._follow)

    def read_unchanged(self, path: Path, seen: Stat) -> bytes | None:
        """The content of a small file that still is the one that a scan saw; None when `open_read` has to
        find out more. See `read.read_unchanged`."""
        return read.read_unchanged(self._folders, path, seen, follow=self._follow)

    def open_trashed(self, run: str, number: int) -> Reader:
        """Open what a run's step took away, for reading.

        Raises:
            Unreadable: it is not there any more, or is no regular file.
        """
        path = os.fsencode(self.trash().content_path(run, number))
        try:
            return Reader(Path(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError as error:
            raise read_failure(Path(path), error) from None

    def read_link(self, path: Path) -> bytes:
        """The target of a symlink.

        Raises:
            Vanished, Unreadable: nothing is there; it is no symlink.
        """
        return read.read_link(self._folders, path)

    def hash_file(self, path: Path, seen: Stat | None = None) -> tuple[Hash, Stat]:
        """BLAKE3 of a file that held still meanwhile, and its stat.

        Args:
            seen: what a scan saw there; with it a small file that is still the same costs fewer calls.

        Raises:
            Changing, Vanished, Unreadable: it did not hold still; it is gone; it cannot be read.
        """
        return read.hash_file(self._folders, path, follow=self._follow, seen=seen)

    def same_stat(self, one: Stat, other: Stat) -> bool:
        """Whether two stats give no sign of a change, as far as this filesystem is trusted."""
        return self._same(one, other)

    def sync(self) -> None:
        """Bring renames and links to the disk, before anything is recorded about them.

        Raises:
            ManifestSyncError: the disk failed or is full.
        """
        for folder in (self.root, self._state_dir):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    sync_filesystem(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise disk_failure(os.fsencode(folder), error) from error

    def stage(self) -> Staging:
        """A new batch of temporary files on the root's device."""
        return Staging(self._area())

    def clean_staging(self) -> None:
        """Remove the temporary files that killed runs left.

        Raises:
            ManifestSyncError: they cannot be removed.
        """
        area = self._area()
        try:
            area.clean()
        except OSError as error:
            raise disk_failure(os.fsencode(area.staging_path), error) from error

    def trash(self) -> Trash:
        """What runs took away."""
        return Trash(self._area(), os.fsencode(self.root))

    def begin_run(self, command: str, time: str) -> RunWriter:
        """Begin the record of a run that changes the tree or the base.

        Args:
            command: what a person would type.
            time: RFC 3339.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        return RunWriter(self._area(), command, time)

    def replace(
        self, staged: Staged, path: Path, *, mtime_ns: int, mode: int, expected: Stat | None, keep_as: str
    ) -> tuple[Stat, bool]:
        """Put a staged file at ``path`` if that still is what ``expected`` says (None: nothing is there).

        Missing folders are made. Of ``mode`` only the permission bits are taken, never setuid and the like.
        What was there is kept in the trash under the name ``keep_as`` (see `RunWriter.slot`).

        Returns:
            The new stat, and whether anything was there.

        Raises:
            TargetChanged, TargetBlocked: as the names say; what is at the path was not touched.
            ManifestSyncError: the disk is full or failed; what is at the path was not touched.
        """
        folder = self._area().staging
        try:
            os.chmod(staged.name, mode & 0o777, dir_fd=folder)
            os.utime(staged.name, ns=(mtime_ns, mtime_ns), dir_fd=folder)
        except OverflowError:
            raise TargetBlocked(path, "this system cannot keep its time") from None
        except OSError as error:
            raise disk_failure(path, error) from error
        return self._replacer().replace(staged.name, path, expected=expected, keep_as=keep_as)

    def replace_symlink(
        self, target: bytes, path: Path, *, expected: Stat | None, keep_as: str
    ) -> tuple[Stat, bool]:
        """Put a symlink at ``path``; otherwise as `replace`. It is refused unless symlinks are kept."""
        if self._symlinks != "keep":
            raise TargetBlocked(path, "it is a symlink, and the configuration does not keep symlinks")
        folder = self._area().staging
        name = f"link-{secrets.token_hex(6)}"
        try:
            os.symlink(target, name, dir_fd=folder)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise disk_failure(path, error) from error
            raise TargetBlocked(path, "its target cannot be a symlink's") from None
        try:
            return self._replacer().replace(name, path, expected=expected, keep_as=keep_as)
        finally:
            # Renamed away by now; where it is not, the next run clears staging.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)

    def put_back(
        self, run: str, number: int, path: Path, *, expected: Stat | None, keep_as: str
    ) -> tuple[Stat, bool]:
        """Move to ``path`` what a step of an earlier run took away, with its time and permissions.

        Otherwise as `replace`.
        """
        # A descriptor of its own: the area keeps one trash folder open, and this run's is needed too.
        source_dir = os.dup(self._area().trash(run))
        try:
            found = self._replacer().replace(
                str(number), path, expected=expected, keep_as=keep_as, source_dir=source_dir
            )
        finally:
            os.close(source_dir)
        # Where it had to be copied to another filesystem it is still there.
        self.trash().discard(run, number)
        return found

    def remove(self, path: Path, *, expected: Stat | None, keep_as: str) -> None:
        """Move a file to the trash if it still is what ``expected`` says; folders left empty go too.

        Raises:
            TargetChanged, TargetBlocked, ManifestSyncError: as for `replace`.
        """
        self._replacer().remove(path, expected=expected, keep_as=keep_as)

    def prune(self, path: Path) -> None:
        """Remove the folders above a path that are empty, as `remove` does; never the root."""
        self._folders.prune(split(path)[0])

    def _is_read_only(self) -> bool:
        try:
            return bool(os.statvfs(self.root).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def _area(self) -> Area:
        if self._own_area is None:
            base = self._state_dir
            try:
                # Where nothing can be staged or taken away, what a run needs of it lies beside the rest.
                if os.stat(base).st_dev != os.stat(self.root).st_dev and not self._is_read_only():
                    os.close(make_own_folder(self._folders.open(Path(b""))))
                    base = os.path.join(self.root, ".manifest-sync")
                self._own_area = Area(base)
            except OSError as error:
                raise disk_failure(os.fsencode(base), error) from error
        return self._own_area

    def _replacer(self) -> Replacer:
        if self._own_replacer is None:
            self._own_replacer = Replacer(
                self._folders,
                self._area(),
                self._same,
                follow=self._follow,
            )
        return self._own_replacer
