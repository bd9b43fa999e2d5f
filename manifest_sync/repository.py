"""The repository in the bucket: load the head and pages, and publish a new head. Knows no local paths.

The write order of a publish (P1): packs are stored before this module is called; then pages, then the
history block if one is due, then the snapshot copy, then ``before_swap`` (the caller's journal), then
the compare-and-swap of the head, which is the commit point. Each step is acknowledged before the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

from manifest_sync import manifest as fmt
from manifest_sync.canonical import compress_document, decompress
from manifest_sync.errors import (
    Damaged,
    FormatError,
    NoRepository,
    RolledBack,
    StoreUnavailable,
    UnknownFeature,
    WrongRepository,
)
from manifest_sync.manifest import Manifest
from manifest_sync.merge import Change, check_folders, merge_pages
from manifest_sync.model import Entry
from manifest_sync.page_reader import PageReader
from manifest_sync.pages import PageRef, encode_page
from manifest_sync.stores.base import NotFound, Object, PreconditionFailed, Unknown

_SAVED_AT_ONCE = 64
SWAP_TRIES_WHEN_UNKNOWN = 5
MAX_COLLECTED = 250_000
"""Collected keys that are held in memory; if there are more, everything is taken as gone."""


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest as it stood in the bucket, with the ETag that a swap must name."""

    manifest: Manifest
    etag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """What a publish adds to the head's own fields; ids and the time come from the caller."""

    snapshot: str
    session: str
    time: str
    machine: str
    host: str
    message: str
    writer: str
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Raced:
    """Another publish came first; ``head`` is what it left."""

    head: Head


class Repository(PageReader):
    """One repository at one place.

    Args:
        store: the bucket, at the repository's prefix.
        cache: this machine's page bodies.
        jobs: how many requests may be under way at once.
    """

    def load_head(self, cached: Head | None = None) -> Head:
        """The head, by one conditional GET.

        Raises:
            NoRepository: there is none.
            FormatError, UnknownFeature: it cannot be read by this version.
        """
        try:
            found = self.store.get(
                fmt.HEAD_KEY, unless_etag=cached.etag if cached else None, max_bytes=fmt.MAX_HEAD
            )
            if found is None:
                assert cached is not None
                return cached
            try:
                return parse_head(found)
            except FormatError:
                # Once more, for what was damaged on its way here.
                found = self.store.get(fmt.HEAD_KEY, max_bytes=fmt.MAX_HEAD)
                assert found is not None
                return parse_head(found)
        except NotFound:
            raise NoRepository(
                f"no repository at {self.store.location}: there is no {fmt.HEAD_KEY}",
                "check the bucket in manifest-sync.toml; `manifest-sync init` makes a repository, and if one "
                "was there, `manifest-sync doctor` says how to get it back",
            ) from None
        except FormatError as error:
            raise FormatError(
                f"{fmt.HEAD_KEY} at {self.store.location} is damaged: {error.message}",
                "`manifest-sync doctor` says how to restore it; nothing was changed",
            ) from None

    def is_ancestor(self, snapshot: str, head: Head) -> bool:
        """Whether ``snapshot`` is the head itself or among its ancestors (history blocks included)."""
        manifest = head.manifest
        return snapshot == manifest.snapshot or snapshot in self.iter_ancestors(manifest)

    def iter_ancestors(self, manifest: Manifest) -> Iterator[str]:
        """Ids of the snapshots before ``manifest``, newest first; history blocks are read as they are due.

        Raises:
            Damaged: a history block is missing.
        """
        yield from reversed(manifest.ancestors)
        key = manifest.history
        while key:
            try:
                found = self.store.get(key, max_bytes=fmt.MAX_HEAD)
            except NotFound:
                raise Damaged(f"{key} is missing from {self.store.location}") from None
            assert found is not None
            ids, key = fmt.parse_history(found.body, key)
            yield from reversed(ids)

    def load_snapshot(self, sequence: int, snapshot: str) -> Manifest | None:
        """The manifest kept under this sequence and id; None when there is no such object.

        Raises:
            Damaged: something else is kept there.
        """
        key = fmt.snapshot_key(sequence, snapshot)
        try:
            found = self.store.get(key, max_bytes=fmt.MAX_HEAD)
        except NotFound:
            return None
        assert found is not None
        try:
            manifest = fmt.parse_manifest(decompress(found.body, fmt.MAX_HEAD))
        except FormatError as error:
            raise Damaged(f"{key} at {self.store.location} is damaged: {error.message}", error.hint) from None
        if (manifest.sequence, manifest.snapshot) != (sequence, snapshot):
            raise Damaged(f"{key} at {self.store.location} holds another snapshot")
        return manifest

    def check_descends(self, head: Head, *, repository: str | None, snapshot: str | None) -> None:
        """Refuse a head of another repository, or one that does not descend from ``snapshot`` (P18)."""
        if repository and head.manifest.repository != repository:
            raise WrongRepository(
                f"{self.store.location} holds repository {head.manifest.repository}, "
                f"but this folder worked with {repository}",
                "check the bucket in manifest-sync.toml; if it was replaced on purpose, "
                "`manifest-sync rebuild-index` starts anew with it",
            )
        if snapshot and not self.is_ancestor(snapshot, head):
            raise RolledBack(
                f"the head at {self.store.location} (snapshot {head.manifest.snapshot[:12]}, sequence "
                f"{head.manifest.sequence}) does not descend from snapshot {snapshot[:12]} seen here last",
                "someone restored an older state of the bucket; if that was meant, use --accept-rollback: "
                "what is here stays, and what differs then is new here or a conflict",
            )

    def collected(self, head: Head, since: int) -> frozenset[str] | None:
        """The keys that collections after fence ``since`` were allowed to delete; None: take all as gone.

        Existence in the bucket is never asked: an object that a list names may vanish at any moment.
        """
        fence = head.manifest.fence
        if fence == since:
            return frozenset()
        # A fence below one that was seen here is that of another history, whose lists say nothing about ours.
        if fence < since or fence - since > fmt.MAX_COLLECTIONS:
            return None
        lists = {number: key for number, key in head.manifest.collections if number > since}
        if set(lists) != set(range(since + 1, fence + 1)):
            return None
        named: set[str] = set()
        for number, key in lists.items():
            try:
                found = self.store.get(key, max_bytes=fmt.MAX_GC_LIST)
                assert found is not None
                named.update(fmt.parse_gc_list(found.body, number))
            except (NotFound, Damaged, StoreUnavailable):
                return None
            if len(named) > MAX_COLLECTED:
                return None
        return frozenset(named)

    def create(self, manifest: Manifest) -> Head | None:
        """Write the first head; None when there is one already."""
        return self._put_head(manifest, None)

    def restore(
        self, parent: Manifest, commit: Commit, revise: Callable[[Manifest], Manifest], etag: str | None
    ) -> Head | None:
        """Write a head anew, with the pages of ``parent``, where it is lost (``etag`` None) or damaged.

        Returns:
            The new head; None when another machine wrote one first.
        """
        return self._put_head(revise(self._next_manifest(parent, parent.pages, commit)), etag)

    def _put_head(self, manifest: Manifest, etag: str | None) -> Head | None:
        """Write a head where none can be read; an answer that was lost is found out by reading (P6)."""
        body = fmt.encode_manifest(manifest)
        self.put_snapshot(manifest, body)
        for attempt in range(SWAP_TRIES_WHEN_UNKNOWN):
            try:
                return Head(manifest, self.store.put_if(fmt.HEAD_KEY, body, etag=etag), body)
            except PreconditionFailed:
                pass
            except Unknown:
                time.sleep(0.2 * 2**attempt)
            try:
                found = self.load_head()
            except (NoRepository, FormatError):
                continue
            return found if self.is_ancestor(manifest.snapshot, found) else None
        raise StoreUnavailable(
            f"{self.store.location}: whether the head was written stayed unknown",
            "run the same command again",
        )

    def publish(
        self,
        expected: Head,
        changes: Iterable[Change],
        commit: Commit,
        before_swap: Callable[[Manifest], None] = lambda _: None,
        revise: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        replaces: Callable[[Entry], None] = lambda _: None,
        made: Callable[[PageRef, Sequence[Entry]], None] = lambda *_: None,
    ) -> Head | Raced:
        """Merge ``changes`` (in path order) into ``expected`` and swap the head.

        Args:
            before_swap: told of the new manifest when all it names is stored.
            revise: may change the pins, the fence and what belongs to it in the new manifest.
            replaces: told of each entry that a change replaces or deletes; may refuse by raising.
            made: told of each new page and its entries.

        Returns:
            The new head, or `Raced` when another publish came first.
        """
        if not expected.manifest.can_write:
            raise UnknownFeature(
                f"{self.store.location} was written by a newer version ({expected.manifest.writer}); "
                "publishing from here would lose what it added",
                "upgrade manifest-sync; pull works as it is",
            )
        pages = self._upload_pages(expected, changes, commit.session, replaces, made)
        manifest = revise(self._next_manifest(expected.manifest, pages, commit))
        body = fmt.encode_manifest(manifest)
        # What a reader would refuse must not become the head, whatever its parent led to.
        fmt.parse_manifest(body)
        self.put_snapshot(manifest, body)
        before_swap(manifest)
        return self._swap(expected, manifest, body)

    def _upload_pages(
        self,
        expected: Head,
        changes: Iterable[Change],
        session: str,
        replaces: Callable[[Entry], None],
        made: Callable[[PageRef, Sequence[Entry]], None],
    ) -> tuple[PageRef, ...]:
        refs: list[PageRef] = []
        waiting: list[Future[None]] = []
        unsaved: list[tuple[PageRef, bytes]] = []
        known = {page.id: page for page in expected.manifest.pages}
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="page") as pool:
            merged = merge_pages(expected.manifest.pages, changes, self.load_if_there, replaces)
            for piece in check_folders(merged, self.load_if_there):
                if isinstance(piece, PageRef):
                    refs.append(piece)
                    continue
                page_id, raw = encode_page(piece)
                if page_id in known:
                    refs.append(known[page_id])
                    continue
                body = compress_document(raw)
                ref = PageRef(
                    id=page_id,
                    session=session,
                    first=piece[0].path,
                    last=piece[-1].path,
                    files=len(piece),
                    bytes=sum(entry.size for entry in piece),
                    raw=len(raw),
                    stored=len(body),
                )
                refs.append(ref)
                made(ref, piece)
                unsaved.append((ref, body))
                if len(unsaved) >= _SAVED_AT_ONCE:
                    # Each transaction waits for the disk.
                    self._cache.save_page_bodies(unsaved)
                    unsaved = []
                waiting.append(pool.submit(self.store.put, fmt.page_key(session, page_id), body))
            for future in waiting:
                future.result()
        self._cache.save_page_bodies(unsaved)
        return tuple(refs)

    def _next_manifest(self, parent: Manifest, pages: tuple[PageRef, ...], commit: Commit) -> Manifest:
        ancestors = (*parent.ancestors, parent.snapshot)
        history = parent.history
        if len(ancestors) > fmt.HISTORY_BLOCK:
            block, ancestors = ancestors[: fmt.HISTORY_BLOCK], ancestors[fmt.HISTORY_BLOCK :]
            number = fmt.history_number(history) + 1 if history else 0
            key = fmt.history_key(number, block[-1])
            # The block is a function of the chain alone, so two pushers that race write equal bytes.
            self.store.put(key, fmt.encode_history(block, history))
            history = key
        return replace(
            parent,
            snapshot=commit.snapshot,
            sequence=parent.sequence + 1,
            parent=parent.snapshot,
            ancestors=ancestors,
            history=history,
            time=commit.time,
            machine=commit.machine,
            host=commit.host,
            message=commit.message,
            writer=commit.writer,
            pages=pages,
            files=sum(page.files for page in pages),
            bytes=sum(page.bytes for page in pages),
            stored_bytes=parent.stored_bytes + commit.stored_bytes,
        )

    def put_snapshot(self, manifest: Manifest, body: bytes) -> None:
        """Store the copy of a head; ``body`` is the head's JSON."""
        self.store.put(
            fmt.snapshot_key(manifest.sequence, manifest.snapshot), compress_document(body, checksum=True)
        )

    def _swap(self, expected: Head, manifest: Manifest, body: bytes) -> Head | Raced:
        """The compare-and-swap; an answer that was lost is found out by reading (P6)."""
        refused = 0
        found = expected
        for attempt in range(SWAP_TRIES_WHEN_UNKNOWN):
            try:
                return Head(manifest, self.store.put_if(fmt.HEAD_KEY, body, etag=expected.etag), body)
            except PreconditionFailed:
                refused += 1
            except Unknown:
                pass
            if attempt or not refused:
                time.sleep(0.2 * 2**attempt)
            found = self.load_head()
            outcome = self._outcome(expected, manifest, found)
            if outcome is not None:
                return outcome
        self.check_descends(
            found, repository=expected.manifest.repository, snapshot=expected.manifest.snapshot
        )
        if refused == SWAP_TRIES_WHEN_UNKNOWN:
            raise StoreUnavailable(
                f"{self.store.location} refuses to replace the {fmt.HEAD_KEY} that it gave out, "
                "and gives out the same again; nothing was published",
                "a proxy or cache in between changes ETags or answers from its memory; "
                "`manifest-sync doctor` looks closer",
            )
        raise StoreUnavailable(
            f"{self.store.location}: whether the head was swapped stayed unknown",
            "run the same command again; it finds out what happened and carries on",
        )

    def _outcome(self, expected: Head, manifest: Manifest, found: Head) -> Head | Raced | None:
        """What became of the swap of ``expected`` for ``manifest``, by a head read after it; None: unknown.

        Only a head that came upon ``expected`` tells. One from before it, out of some cache, does not say
        that the swap failed; who takes it so gives up what the true head needs.
        """
        if found.etag == expected.etag:
            return None
        for snapshot in chain([found.manifest.snapshot], self.iter_ancestors(found.manifest)):
            if snapshot == manifest.snapshot:
                # The swap succeeded and its answer was lost; others may have published since.
                return found
            if snapshot == expected.manifest.snapshot:
                return Raced(found)
        return None


def parse_head(found: Object) -> Head:
    """A head from the object that holds it."""
    return Head(fmt.parse_manifest(found.body), found.etag, found.body)
