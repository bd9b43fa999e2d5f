"""Export to a prefix of an S3 bucket: plain objects, for tools that know nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from manifest_sync.errors import AccessDenied, ManifestSyncError
from manifest_sync.export.destination import There, Written, check_no_repository
from manifest_sync.model import Entry, EntryType, Path
from manifest_sync.stores.base import Listed
from manifest_sync.worktree import Staged, Worktree

if TYPE_CHECKING:
    from manifest_sync.stores.s3_plain import PlainS3

_MAX_KEY = 1024


class StoreDestination:
    """Keeps the contract of `Destination` in a bucket. One listing tells all that is there.

    Args:
        store: the prefix.
        worktree: a folder of this machine to stage files in.
        jobs: requests under way at once.
        prefix: the part of a key before the path, for its length.
    """

    def __init__(self, store: PlainS3, worktree: Worktree, jobs: int, prefix: str) -> None:
        self.worktree = worktree
        self._store = store
        self._jobs = jobs
        self._room = _MAX_KEY - len(prefix.encode()) - 1
        self._found: dict[Path, There] | None = None

    @property
    def name(self) -> str:
        """See `Destination`."""
        return self._store.location

    def refuses(self, entry: Entry) -> str:
        """See `Destination`."""
        if entry.type is EntryType.SYMLINK:
            return "a symlink cannot be kept as an object"
        if len(entry.path) > self._room:
            return f"its key would be longer than {_MAX_KEY} bytes"
        try:
            entry.path.decode()
        except UnicodeDecodeError:
            return "its name is not UTF-8, which a key must be"
        return ""

    def identity(self, entry: Entry) -> str:
        """See `Destination`."""
        return entry.hash.hex()

    def find(self, path: Path) -> There | None:
        """See `Destination`."""
        return self._there().get(path)

    def holds(self, entry: Entry, there: There) -> tuple[bool | None, str]:
        """See `Destination`. Without its content nothing but another size tells."""
        return (None if there.size == entry.size else False), ""

    def others(self) -> Iterable[Path]:
        """See `Destination`."""
        return self._there()

    def write(
        self,
        items: Sequence[tuple[Entry, There | None]],
        staged: dict[Path, Staged],
        done: Callable[[], None],
    ) -> Written:
        """See `Destination`. What has the ETag that the content would get is there already."""
        from manifest_sync.stores.s3_plain import PlainFile  # noqa: PLC0415

        written = Written({}, set(), {})

        def send(item: tuple[Entry, There | None]) -> tuple[Path, str, bool]:
            entry, there = item
            file = PlainFile(staged[entry.path].path, entry.size, entry.mtime_ns)
            if there is not None and there.size == entry.size and file.has_etag(there.token):
                return entry.path, there.token, True
            return entry.path, self._store.put_file(entry.path.decode(), file), False

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="export") as pool:
            waiting = [pool.submit(send, item) for item in items]
            try:
                for future in waiting:
                    path, token, was_equal = future.result()
                    written.tokens[path] = token
                    if was_equal:
                        written.equal.add(path)
                    done()
            finally:
                for future in waiting:
                    future.cancel()
        return written

    def remove(self, paths: Sequence[Path]) -> dict[Path, str]:
        """See `Destination`."""
        failed: dict[Path, str] = {}

        def delete(path: Path) -> None:
            try:
                self._store.delete(path.decode())
            except AccessDenied:
                raise
            except ManifestSyncError as error:
                failed[path] = error.message

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="export") as pool:
            list(pool.map(delete, paths))
        return failed

    def finish(self, written: dict[Path, str]) -> dict[Path, str]:
        """See `Destination`."""
        return written

    def _there(self) -> dict[Path, There]:
        if self._found is None:
            # A key with `/` at its end stands for an empty folder, which other tools made.
            self._found = {
                Path(item.key.encode()): _there(item)
                for item in self._store.list("")
                if not item.key.endswith("/") and item.key
            }
            check_no_repository(self.name, (path for path in self._found if path.startswith(b"snapshots/")))
        return self._found


def _there(item: Listed) -> There:
    return There(item.size, item.etag.strip('"'))
