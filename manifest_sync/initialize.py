"""Making a repository in an empty place, or joining the one that is there."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from manifest_sync import __version__
from manifest_sync import manifest as fmt
from manifest_sync.config import Location
from manifest_sync.errors import AccessDenied, Damaged, ManifestSyncError, NoRepository
from manifest_sync.probe import keeps_conditions
from manifest_sync.project_folder import ProjectFolder
from manifest_sync.proposal import Proposal
from manifest_sync.repository import Repository
from manifest_sync.rights import Rights, try_rights
from manifest_sync.stores.base import Store
from manifest_sync.stores.inspect import identify
from manifest_sync.times import rfc3339


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `Project.init` did."""

    project_dir: str
    location: str
    created: bool
    """False when there was a repository already and this folder joined it."""
    sequence: int
    rules: tuple[str, ...]
    selected: Proposal | None = None
    """What the rules written here leave out of the tree; None where there were rules already, or no tree."""
    rights: Rights | None = None
    """What the key may do there; None for a folder, which has no key."""
    saved: tuple[str, ...] = ()
    """Files in which keys were kept: ``.env``, and ``.gitignore`` if it was told of that."""


def finds_key(location: Location) -> bool:
    """Whether a key is found for a place, or none is needed; no request is made there."""
    if location.scheme != "s3":
        return True
    try:
        identify(location)
    except AccessDenied:
        return False
    return True


@contextmanager
def removed_on_failure(path: str) -> Iterator[None]:
    """Remove the folder ``path`` again if it was not there before and what is done fails."""
    was_there = os.path.lexists(path)
    try:
        yield
    except BaseException:
        if not was_there:
            shutil.rmtree(path, ignore_errors=True)
        raise


def create_or_join(folder: ProjectFolder, *, single_writer: bool) -> InitReport:
    """Write the first head at the folder's bucket, or read the one that is there.

    Raises:
        Damaged: there are snapshots of a repository, but its head is missing.
        ManifestSyncError: the store ignores conditions and ``single_writer`` was not asked for.
    """
    location = folder.location()
    if location.scheme == "file":
        os.makedirs(location.path, exist_ok=True)
    store = folder.store()
    repository = Repository(store, NoCache())
    created = False
    rights = None
    try:
        head = repository.load_head()
        rights = _rights(location, store)
    except NoRepository:
        begun = _begun(repository)
        rights = _rights(location, store)
        if not single_writer and not keeps_conditions(store, secrets.token_hex(8)):
            raise ManifestSyncError(
                f"{store.location} ignores conditional writes: two machines pushing at once would lose files",
                "use another store, or --single-writer if only one machine will ever push",
            ) from None
        if begun is not None and begun.single_writer != single_writer:
            begun = None
        first = begun or fmt.first_manifest(
            repository=str(uuid.uuid4()),
            snapshot=secrets.token_hex(16),
            machine=folder.machine_id(),
            host=platform.node(),
            time=rfc3339(datetime.now(UTC)),
            writer=__version__,
            single_writer=single_writer,
        )
        made = repository.create(first)
        created = made is not None
        head = made or repository.load_head()
    os.makedirs(folder.root, exist_ok=True)
    folder.state_dir()
    return InitReport(
        folder.config.project_dir,
        store.location,
        created,
        head.manifest.sequence,
        folder.config.rules,
        rights=rights,
    )


def _rights(location: Location, store: Store) -> Rights | None:
    if location.scheme != "s3":
        return None
    return try_rights(store, f"probe/{secrets.token_hex(8)}-access")


def _begun(repository: Repository) -> fmt.Manifest | None:
    """The first manifest that an `init` which was cut short wrote; None when nothing was begun.

    Raises:
        Damaged: there are later snapshots, so that the repository had a head once.
    """
    store = repository.store
    begun = None
    for listed in store.list("snapshots/"):
        number, _, snapshot = listed.key.removeprefix("snapshots/").removesuffix(".json.zst").partition("-")
        if number.strip("0"):
            raise Damaged(
                f"{store.location} holds the snapshots of a repository, but {fmt.HEAD_KEY} is missing",
                "`manifest-sync doctor` says how to restore it; nothing was written",
            )
        begun = repository.load_snapshot(0, snapshot)
    return begun


class NoCache:
    """Pages are not kept while a repository is only being made or joined."""

    def load_page_body(self, page_id: str) -> bytes | None:
        """See `page_reader.PageCache`."""

    def save_page_bodies(self, pages: object) -> None:
        """See `page_reader.PageCache`."""
