"""What the system tells of changes in the tree while they happen: hints, never more.

Events get lost (the kernel's queue is bounded, a folder may be filled before it is watched), so whoever
listens looks at everything now and then. `watchfiles` is imported here and nowhere else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from types import TracebackType
from typing import Self

from manifest_sync.backlog import MOST_PATHS
from manifest_sync.model import Path
from manifest_sync.worktree.mounts import mount_of

Wanted = Callable[[Path], Path | None]
"""What to note when something happens to a path: it or another one, b"" for everything, None for nothing."""

_STEP_MS = 250
_GROUP_MS = 1000
_TIMEOUT_MS = 5000
_PAUSE_SECONDS = 2.0
_MOST_FAILURES = 5
_SWITCH = "WATCHFILES_FORCE_POLLING"


def no_events(root: str, env: Mapping[str, str]) -> str:
    """Why no events can be expected of the tree at ``root``, in words for people; '' when they can.

    ``WATCHFILES_FORCE_POLLING`` in ``env`` decides, as for other programs that use `watchfiles`; without it
    a filesystem that other machines may write to gives none of their changes.
    """
    asked = env.get(_SWITCH, "").lower()
    if asked:
        return "" if asked in {"false", "disable", "disabled"} else f"{_SWITCH} is set"
    mount = mount_of(root)
    if mount is not None and (mount.is_network or mount.is_fuse):
        return f"{root} is on {mount.kind}, which does not tell of every change"
    return ""


class Events:
    """Collects the paths that something happened to, in a thread of its own, until they are taken.

    Args:
        root: the tree, absolute; it may be missing, go away and come back.
        wanted: asked in that thread about every path.
        why_none: why none are to be expected (see `no_events`): then it only says so.
    """

    def __init__(self, root: str, wanted: Wanted, why_none: str = "") -> None:
        self.why_none = why_none
        """Why no events come (any more); '' while they do."""
        self._root = root
        self._prefix = os.path.join(os.fsencode(root), b"")
        self._wanted = wanted
        self._lock = threading.Lock()
        self._noted: set[Path] = set()
        self._everything = False
        self._ignore_denied = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="events", daemon=True)

    def take(self) -> tuple[set[Path], bool]:
        """What was noted since the last call, and whether anything else may have changed too."""
        with self._lock:
            found = self._noted, self._everything
            self._noted, self._everything = set(), False
        return found

    def exists(self, path: Path) -> bool:
        """Whether anything is at ``path`` now."""
        return os.path.lexists(self._prefix + path)

    def __enter__(self) -> Self:
        if not self.why_none:
            import watchfiles  # noqa: F401, PLC0415  here, not in the thread: a broken one must be told of

            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _listen(self) -> None:
        """Watch the tree; begin anew when it is replaced, give up when that keeps failing."""
        failures = 0
        while not self._stop.is_set():
            try:
                self._watch_one()
            except (OSError, RuntimeError) as error:
                if isinstance(error, PermissionError) and not self._ignore_denied:
                    # A push passes over such a folder too. Not from the start: `watchfiles` would pass over
                    # the limit of watches as well.
                    self._ignore_denied = True
                    continue
                failures += 1
                text = " ".join(str(error).split()).partition(" about [")[0][:200].rstrip(".")
                # Nothing can be done about the limit by trying again; a name that is not UTF-8 may be alone.
                if "limit" in text or failures == _MOST_FAILURES:
                    self.why_none = f"the system does not tell of changes any more ({text})"
                self._note(Path(b""))
                if self.why_none:
                    return
            self._stop.wait(_PAUSE_SECONDS)

    def _watch_one(self) -> None:
        """Watch the folder that is the root now, until it is another one."""
        from watchfiles import watch  # noqa: PLC0415  see __enter__

        identity = self._identity()
        if identity is None:
            return
        watching = watch(
            self._root,
            watch_filter=None,
            debounce=_GROUP_MS,
            step=_STEP_MS,
            rust_timeout=_TIMEOUT_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=False,
            ignore_permission_denied=self._ignore_denied,
        )
        is_new = True
        with closing(watching):
            for changes in watching:
                if is_new:
                    # What happened before the first event could come is in none.
                    self._note(Path(b""))
                    is_new = False
                for _, name in changes:
                    self._note_name(os.fsencode(name))
                if self._identity() != identity:
                    self._note(Path(b""))
                    return

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._root)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _note_name(self, name: bytes) -> None:
        if name.startswith(self._prefix):
            path = self._wanted(Path(name[len(self._prefix) :]))
            if path is not None:
                self._note(path)

    def _note(self, path: Path) -> None:
        with self._lock:
            if not self._everything:
                self._noted.add(path)
                if not path or len(self._noted) > MOST_PATHS:
                    self._noted.clear()
                    self._everything = True
