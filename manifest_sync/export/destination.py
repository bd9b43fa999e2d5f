"""Where an export goes, a folder or a prefix of plain objects: what both can do, and what none may touch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from manifest_sync.errors import FormatError, UsageError
from manifest_sync.externals import place_of, split_url
from manifest_sync.keys import is_collectable
from manifest_sync.location import Location
from manifest_sync.model import Entry, Path, Stat, display, is_below
from manifest_sync.worktree import Staged, Worktree

OWN_FOLDER = ".manifest-sync-export"
"""In a destination that is a folder: the lock and what is not whole yet, while an export runs."""

_R2 = ".r2.cloudflarestorage.com"
_JURISDICTIONS = ("eu", "fedramp")
_AWS = re.compile(r"(?:^|\.)s3[a-z0-9.-]*\.amazonaws\.com(?:\.cn)?\Z")


@dataclass(frozen=True, slots=True)
class There:
    """What is at a path of the destination. The token changes whenever the content may have; '' is none."""

    size: int
    token: str
    stat: Stat | None = None


@dataclass(slots=True)
class Written:
    """What came of writing some files."""

    tokens: dict[Path, str]
    """Of what is there now as it should be."""
    equal: set[Path]
    """Of these, what had been there already."""
    failed: dict[Path, str]
    """What could not be written, and why."""


class Destination(Protocol):
    """One place that holds files under their own paths."""

    @property
    def name(self) -> str:
        """What it is called in messages, and by which its state is kept."""
        ...

    @property
    def worktree(self) -> Worktree:
        """Where files are made whole before they go to the destination."""
        ...

    def refuses(self, entry: Entry) -> str:
        """Why this entry cannot be kept there, or ''."""
        ...

    def identity(self, entry: Entry) -> str:
        """What tells this entry's content from another, as far as the destination keeps it."""
        ...

    def find(self, path: Path) -> There | None:
        """What is at a path."""
        ...

    def holds(self, entry: Entry, there: There) -> tuple[bool | None, str]:
        """Whether ``there`` is the entry, and then its token. None: only the entry's content can tell."""
        ...

    def others(self) -> Iterable[Path]:
        """Every path at which something is."""
        ...

    def write(
        self,
        items: Sequence[tuple[Entry, There | None]],
        staged: dict[Path, Staged],
        done: Callable[[], None],
    ) -> Written:
        """Put files in place, each whole at every instant; ``done`` is called after each."""
        ...

    def remove(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Delete; what could not be, with the reason."""
        ...

    def finish(self, written: dict[Path, str]) -> dict[Path, str]:
        """The tokens of what was written in this run, once nothing can change unseen any more."""
        ...


def check_apart(destination: Location, *, root: str, state: str, bucket: Location) -> None:
    """Refuse a destination that overlaps with what is ours.

    Args:
        root: the tree, absolute.
        state: the local state's folder.
        bucket: where the repository is.

    Raises:
        UsageError: the destination lies in one of them, or one of them in it.
    """
    if destination.scheme == "file":
        place = os.path.realpath(destination.path)
        for what, path in (
            ("the tree", root),
            ("the local state", state),
            ("the bucket", bucket.path if bucket.scheme == "file" else ""),
        ):
            if path and _overlap(os.fsencode(place), os.fsencode(os.path.realpath(path))):
                raise _overlaps(destination, what, path)
        if all(os.path.exists(os.path.join(place, name)) for name in ("manifest.json", "snapshots")):
            raise _overlaps(destination, "a repository", place)
        if os.path.lexists(os.path.join(place, "manifest-sync.toml")):
            raise _overlaps(destination, "a project's folder", place)
    elif destination.scheme == "s3":
        if (
            bucket.scheme == "s3"
            and bucket.bucket == destination.bucket
            and may_be_same_store(bucket, destination)
            and _overlap(destination.prefix.encode(), bucket.prefix.encode())
        ):
            raise _overlaps(destination, "the bucket", str(bucket))
    else:
        raise UsageError(
            f"{destination} cannot take an export", "use a folder, s3://bucket/prefix or an rclone remote"
        )


def check_no_repository(destination: str, paths: Iterable[Path]) -> None:
    """Refuse to touch what looks like part of a repository, however its place is spelled.

    Raises:
        UsageError: one of the paths does.
    """
    for path in paths:
        if _is_object(path):
            raise UsageError(
                f"{destination} holds a repository ({display(path)}), which an export could destroy",
                "export to a prefix of its own",
            )


def _is_object(path: Path) -> bool:
    """Whether a path ends like the key of a snapshot, a page or a pack, at whatever prefix."""
    parts = path.decode("ascii", "replace").rsplit("/", 3)
    return is_collectable("/".join(parts[-2:])) or is_collectable("/".join(parts[-3:]))


def may_hold(destination: Location, bucket: Location) -> bool:
    """Whether what a repository adopted can lie at a destination; ``bucket`` is where the repository is."""
    return destination.scheme == bucket.scheme and may_be_same_store(destination, bucket)


def may_be_same_store(one: Location, other: Location) -> bool:
    """Whether two locations may be in one store. Its name, its address and a proxy's may all be used, so that
    two endpoints tell nothing unless each is that of a known service, and not the same."""
    known, others = _service(one), _service(other)
    return not known or not others or known == others


def path_at(url: str, destination: Location) -> Path | None:
    """The path at which an adopted object lies in a destination; None when it is not in it.

    Args:
        url: of the object, in a store that may be the destination's.
    """
    try:
        place, key = split_url(url)
    except FormatError:
        return None
    there, prefix = place_of(destination)
    if place != there:
        return None
    if destination.scheme == "file":
        key = os.path.realpath(f"/{key}")
        prefix = os.path.join(os.path.realpath(destination.path), "")
    return Path(os.fsencode(key[len(prefix) :])) if key.startswith(prefix) else None


def _overlap(one: bytes, other: bytes) -> bool:
    return is_below(one, other) or is_below(other, one)


def _service(location: Location) -> str:
    """What tells the store at an endpoint from any other that is known: R2 and its account, or AWS; or ''."""
    host = (urlsplit(location.endpoint_url).hostname or "").rstrip(".")
    if host.endswith(_R2):
        labels = [label for label in host.removesuffix(_R2).split(".") if label not in _JURISDICTIONS]
        return f"R2 {labels[-1]}" if labels else ""
    return "AWS" if _AWS.search(host) else ""


def _overlaps(destination: Location, what: str, path: str) -> UsageError:
    return UsageError(
        f"{destination} overlaps with {what} ({path})", "export to a folder or a prefix of its own"
    )
