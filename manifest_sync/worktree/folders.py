"""Folders below the root as directory descriptors, reached without ever following a symlink (P15)."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict

from manifest_sync.model import Path
from manifest_sync.pathrules import check_path, is_plain_name
from manifest_sync.worktree.outcomes import TargetBlocked, reason_of

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 32


def split(path: Path) -> tuple[Path, bytes]:
    """A path's folder and its last name."""
    cut = path.rfind(b"/")
    return (Path(path[:cut]), path[cut + 1 :]) if cut >= 0 else (Path(b""), bytes(path))


def is_allowed_name(name: bytes) -> bool:
    """Whether one component may be touched: not ``..``, not ``.git``, not the tool's own folder."""
    return is_plain_name(name) is not None or (b"/" not in name and check_path(name) is None)


class Folders:
    """Descriptors of the folders used last, each opened relative to its parent with ``O_NOFOLLOW``.

    A kept descriptor could outlive a rename of its folder; so it is compared with what the path leads to
    before it is used again. Not thread-safe.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._open: OrderedDict[bytes, tuple[int, int, int]] = OrderedDict()

    def open(self, folder: Path, *, check: bool = True) -> int:
        """A descriptor of ``folder``, valid until the next call.

        Args:
            folder: below the root; the empty path is the root, which may itself be behind a symlink.
            check: make sure that a kept descriptor is still the one the path leads to.

        Raises:
            TargetBlocked: a component has a name that is never touched.
            OSError: ENOENT; ENOTDIR or ELOOP where a component is a file or a symlink; and others.
        """
        kept = self._open.get(folder)
        if kept is not None:
            if not check or self._is_current(folder, kept):
                self._open.move_to_end(folder)
                return kept[0]
            self.close()
        # From the nearest kept folder above; not recursive: a path may be two thousand folders deep.
        above: bytes = folder
        while above and above not in self._open:
            above = above[: max(above.rfind(b"/"), 0)]
        if above not in self._open or (check and not self._is_current(above, self._open[above])):
            self.close()
            above = b""
            self._keep(b"", os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        descriptor = self._open[above][0]
        below = [] if above == folder else folder[len(above) + 1 if above else 0 :].split(b"/")
        for name in below:
            if not is_allowed_name(name):
                raise TargetBlocked(folder, "a folder on the way has a reserved or impossible name")
            descriptor = os.open(name, OPEN_FOLDER, dir_fd=descriptor)
            above = above + b"/" + name if above else name
            self._keep(above, descriptor)
        return descriptor

    def make(self, folder: Path) -> int:
        """`open`, creating what is missing of it.

        Raises:
            TargetBlocked: a component is a file or a symlink, or has a name that is never touched.
            OSError: the folder could not be created.
        """
        try:
            return self.open(folder)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise self._blocked(folder, error) from None
        position = 0
        while position >= 0:
            position = folder.find(b"/", position + 1)
            here = Path(folder if position < 0 else folder[:position])
            try:
                self.open(here)
                continue
            except FileNotFoundError:
                pass
            except OSError as error:
                raise self._blocked(folder, error) from None
            parent, name = split(here)
            if not is_allowed_name(name):
                raise TargetBlocked(folder, "a folder on the way has a reserved or impossible name")
            try:
                os.mkdir(name, dir_fd=self.open(parent))
            except FileExistsError:
                continue
        try:
            return self.open(folder)
        except OSError as error:
            raise self._blocked(folder, error) from None

    def prune(self, folder: Path) -> None:
        """Remove ``folder`` and those above it for as long as they are empty; never the root."""
        while folder:
            parent, name = split(folder)
            try:
                os.rmdir(name, dir_fd=self.open(parent))
            except FileNotFoundError:
                pass  # a run that was killed came as far as this
            except (OSError, TargetBlocked):
                return
            self.forget(folder)
            folder = parent

    def device(self, folder: Path) -> int:
        """``st_dev`` of a folder that was opened just now."""
        return self._open[folder][1]

    def forget(self, folder: Path) -> None:
        """Close the descriptor kept for a folder, if any."""
        kept = self._open.pop(folder, None)
        if kept is not None:
            os.close(kept[0])

    def close(self) -> None:
        """Close every descriptor; the next use opens anew."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __del__(self) -> None:
        self.close()

    def _keep(self, folder: bytes, descriptor: int) -> None:
        found = os.fstat(descriptor)
        previous = self._open.pop(folder, None)
        if previous is not None:
            os.close(previous[0])
        self._open[folder] = (descriptor, found.st_dev, found.st_ino)
        if len(self._open) > _KEPT:
            os.close(self._open.popitem(last=False)[1][0])

    def _is_current(self, folder: bytes, kept: tuple[int, int, int]) -> bool:
        try:
            if not folder:
                found = os.stat(self._root)
            else:
                # Relative to the root; a symlink on the way shows as another inode, or leads to the same
                # folder after all.
                root = self._open.get(b"")
                full = folder if root else self._root + b"/" + folder
                found = os.stat(full, dir_fd=root[0] if root else None, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == kept[1:]

    @staticmethod
    def _blocked(folder: Path, error: OSError) -> OSError | TargetBlocked:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return TargetBlocked(folder, "a file or a symlink stands where a folder must be")
        if error.errno in (errno.EACCES, errno.EPERM):
            return TargetBlocked(folder, f"a folder on the way cannot be entered: {reason_of(error)}")
        return error
