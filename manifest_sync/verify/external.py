"""Looking at adopted objects: by listing what lies around them, or by reading every byte of theirs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import structs

from manifest_sync.canonical import new_hasher
from manifest_sync.errors import NoRepository
from manifest_sync.externals import same_etag, split_url
from manifest_sync.fetch import Hurt, MissingContent, fetch, fetch_in_order
from manifest_sync.model import Entry, PackRef, Path
from manifest_sync.outside import Outside, Unreachable
from manifest_sync.report import Progress
from manifest_sync.stores.base import Listed, NotFound, Store
from manifest_sync.verify.wholefiles import WholeFiles

_BATCH_FILES = 4096
_BATCH_BYTES = 256 << 20
FEW = 20
"""So few objects are asked for one by one."""
MORE_THAN_WANTED = 100
"""A listing that shows so many times more than is looked for is given up."""
WRONG = "its bytes are not those that were adopted, though its ETag is"


class ExternalReader:
    """Looks at the objects outside of a repository.

    Args:
        store: the repository's.
        jobs: how many requests may be under way at once.
    """

    def __init__(self, store: Store, jobs: int, progress: Progress) -> None:
        self._store = store
        self._outside = Outside(store)
        self._jobs = jobs
        self._progress = progress
        self.bytes = 0
        """Read so far."""

    def unreachable(self, packs: Sequence[PackRef]) -> dict[PackRef, str]:
        """The objects that cannot be read from here, and why."""
        found = {}
        for pack in packs:
            try:
                self._outside.locate(pack.url)
            except Unreachable as error:
                found[pack] = str(error)
        return found

    def list_all(self, packs: Sequence[PackRef]) -> dict[PackRef, str]:
        """Every object that is not there as it was adopted, and why.

        A listing is no evidence: what it lacks, and what it shows to be another, is asked for itself.
        """
        suspects: list[PackRef] = []
        for (place, prefix), group in _by_folder(packs).items():
            suspects += self._unlisted(place, prefix, group)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="outside") as pool:
            return {
                pack: what
                for pack, what in zip(suspects, pool.map(self._outside.fault, suspects), strict=True)
                if what
            }

    def _unlisted(self, place: str, prefix: str, wanted: dict[str, list[PackRef]]) -> list[PackRef]:
        most = MORE_THAN_WANTED * len(wanted)
        try:
            # A folder says nothing in a listing that the files themselves would not say as fast.
            items = self._store.beside(place).list(prefix) if place != "file://" else iter(())
            for item in items if len(wanted) > FEW else ():
                most -= 1
                if most < 0:
                    break
                if packs := wanted.get(item.key):
                    wanted[item.key] = [pack for pack in packs if not _is_listed(pack, item)]
        except (NoRepository, NotFound):
            pass  # Each is asked for itself, and that says it.
        return [pack for packs in wanted.values() for pack in packs]

    def read_all(self, entries: Iterable[Entry], packs: Collection[PackRef]) -> dict[PackRef, str]:
        """Every one of these objects of which some bytes are not what the entries say, and why.

        Of an entry all chunks are read, also those that are not outside, for the hash of the whole.
        """
        wrong: dict[PackRef, str] = {}
        seen: set[int] = set()
        batch: list[Entry] = []
        size = 0
        for entry in entries:
            id_ = WholeFiles.identify(entry)
            if id_ in seen or not any(chunk.frame.pack in packs for chunk in entry.chunks):
                continue
            seen.add(id_)
            if len(entry.chunks) > 1:
                self._read_whole(entry, wrong)
                continue
            batch.append(entry)
            size += entry.size
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                self._read_batch(batch, wrong)
                batch, size = [], 0
        self._read_batch(batch, wrong)
        return wrong

    def _read_batch(self, batch: Sequence[Entry], wrong: dict[PackRef, str]) -> None:
        # The same path may be there with other content in other snapshots: a number tells them apart.
        numbered = [structs.replace(entry, path=Path(b"%d" % number)) for number, entry in enumerate(batch)]
        hurt: Hurt = {}
        for piece in fetch(self._store, numbered, jobs=self._jobs, hurt=hurt):
            self._count(len(piece.data))
        for path, missing in hurt.items():
            wrong[batch[int(path)].chunks[0].frame.pack] = missing.reason

    def _read_whole(self, entry: Entry, wrong: dict[PackRef, str]) -> None:
        hasher = new_hasher()
        try:
            for data in fetch_in_order(self._store, entry, jobs=self._jobs):
                hasher.update(data)
                self._count(len(data))
        except MissingContent as missing:
            for chunk in entry.chunks:
                if chunk.frame.pack.url == missing.key:
                    wrong[chunk.frame.pack] = missing.reason
            return
        if hasher.digest() != entry.hash:
            for chunk in entry.chunks:
                if chunk.frame.pack.is_external:
                    wrong.setdefault(chunk.frame.pack, WRONG)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._progress.advance("transfer", bytes_=size)


def _is_listed(pack: PackRef, item: Listed) -> bool:
    return pack.size == item.size and (not item.etag or same_etag(pack.etag, item.etag))


def _by_folder(packs: Sequence[PackRef]) -> dict[tuple[str, str], dict[str, list[PackRef]]]:
    """The objects by place and by the longest prefix of keys that a listing needs, then by key.

    What shares no folder is listed apart: there may be much else in a bucket.
    """
    tops: dict[tuple[str, str], dict[str, list[PackRef]]] = {}
    for pack in packs:
        place, key = split_url(pack.url)
        top = key.partition("/")[0] if "/" in key else ""
        tops.setdefault((place, top), {}).setdefault(key, []).append(pack)
    return {
        (place, os.path.commonprefix([key.rpartition("/")[0] for key in (min(keys), max(keys))])): keys  # noqa: RUF071
        for (place, _), keys in tops.items()
    }
