"""What a head reaches: the retained snapshots and the pages they list, the history blocks, the gc lists.

Unlike `manifest_sync.snapshots`, which stops at what is missing, this goes on: what is damaged is noted, and
the chain is picked up behind it by the ids that the head, the history blocks and a listing name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from manifest_sync import manifest as fmt
from manifest_sync.canonical import decompress, has_checksum
from manifest_sync.errors import FormatError, UnknownFeature
from manifest_sync.manifest import Manifest
from manifest_sync.pages import PageRef
from manifest_sync.repository import Head, Repository
from manifest_sync.snapshots import list_snapshots
from manifest_sync.stores.base import NotFound
from manifest_sync.verify.damage import Damage, Kind, Ranges, make_ranges

T = TypeVar("T")

MISSING = "it is missing"


class PageUse:
    """One page and the snapshots that list it."""

    __slots__ = ("head", "ref", "spans")

    def __init__(self, ref: PageRef) -> None:
        self.ref = ref
        self.head = False
        self.spans: list[tuple[int, int]] = []

    def add(self, sequence: int) -> None:
        """One more snapshot lists it. They come newest first, so that runs of them are kept as such."""
        if self.spans and self.spans[-1][0] == sequence + 1:
            self.spans[-1] = (sequence, self.spans[-1][1])
        else:
            self.spans.append((sequence, sequence))

    @property
    def snapshots(self) -> Ranges:
        """Their sequences."""
        return make_ranges(self.spans)

    @property
    def key(self) -> str:
        """The page's key in the bucket."""
        return fmt.page_key(self.ref.session, self.ref.id)


@dataclass(slots=True)
class Survey:
    """What was found. ``pages`` are in the order in which the snapshots, newest first, list them."""

    pages: dict[PageRef, PageUse] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def count(self, kind: Kind) -> None:
        """One more object of a kind was looked at."""
        self.checked[kind.value] = self.checked.get(kind.value, 0) + 1


def survey(repository: Repository, head: Head, *, jobs: int) -> Survey:
    """Follow everything that ``head`` reaches down to the pages, which are not opened.

    Each snapshot, history block and gc list is read and checked. A head without an ETag stands in for one
    that is lost: it is a snapshot itself.

    Raises:
        StoreUnavailable, AccessDenied: the store failed.
    """
    return _Surveyor(repository, head, jobs).run()


def twice(look: Callable[[], T]) -> T:
    """What ``look`` gives, asked again when it does not find what should be there: an answer may be wrong,
    and bytes may be damaged on their way."""
    try:
        return look()
    except (NotFound, FormatError):
        return look()


class _Surveyor:
    def __init__(self, repository: Repository, head: Head, jobs: int) -> None:
        self._repository = repository
        self._store = repository.store
        self._head = head
        self._manifest = head.manifest
        self._jobs = jobs
        self._found = Survey()
        listed = list_snapshots(repository)
        self._sequence_of = {id_: sequence for sequence, id_ in listed}
        self._ids_at: dict[int, list[str]] = {}
        for sequence, id_ in listed:
            self._ids_at.setdefault(sequence, []).append(id_)
        self._block_of: dict[str, str] = {}
        self._visited = {self._manifest.snapshot}

    def run(self) -> Survey:
        self._use_pages(self._manifest, is_head=True)
        self._check_copy()
        self._walk(self._known_ids())
        for pin in self._manifest.pins:
            if pin.snapshot not in self._visited:
                self._visited.add(pin.snapshot)
                sequence = self._sequence_of.get(pin.snapshot, pin.sequence)
                self._take(sequence, pin.snapshot, self._load(sequence, pin.snapshot))
        self._check_collections()
        return self._found

    def _use_pages(self, manifest: Manifest, *, is_head: bool = False) -> None:
        self._found.count(Kind.SNAPSHOT)
        for ref in manifest.pages:
            use = self._found.pages.get(ref)
            if use is None:
                use = self._found.pages[ref] = PageUse(ref)
            use.add(manifest.sequence)
            use.head = use.head or is_head

    def _check_copy(self) -> None:
        """The head's own snapshot: the same bytes. Which of two that differ is right, a checksum tells."""
        manifest = self._manifest
        if not self._head.etag:
            return
        key = fmt.snapshot_key(manifest.sequence, manifest.snapshot)
        spans = ((manifest.sequence, manifest.sequence),)
        what = ""
        try:
            body, copied = twice(lambda: self._load_copy(key))
            if copied != self._head.body:
                what = "it is not the copy of the head that it should be"
                copy = fmt.parse_manifest(copied)
                is_same = (copy.sequence, copy.snapshot) == (manifest.sequence, manifest.snapshot)
                if is_same and has_checksum(body):
                    what = f"it is not what {key}, the copy of it, holds"
                    self._damage(Damage(Kind.HEAD, fmt.HEAD_KEY, what, spans, head=True))
                    return
        except NotFound:
            what = MISSING
        except (FormatError, UnknownFeature) as error:
            what = error.message
        if what:
            self._damage(Damage(Kind.SNAPSHOT, key, what, spans, cached=True))

    def _known_ids(self) -> list[str]:
        """The head's ancestors, newest first, as far as the head and readable history blocks name them.

        An empty text stands where a block is missing: what is beside it are no neighbours.
        """
        ids = list(reversed(self._manifest.ancestors))
        key = self._manifest.history
        while key:
            self._found.count(Kind.HISTORY)
            try:
                block, previous = twice(lambda key=key: self._load_block(key))  # type: ignore[misc]
            except (NotFound, FormatError) as error:
                what = MISSING if isinstance(error, NotFound) else error.message
                self._damage(Damage(Kind.HISTORY, key, what))
                previous = self._block_before(key)
                ids.append("")
            else:
                ids += reversed(block)
                self._block_of.update(dict.fromkeys(block, key))
            key = previous
        return ids

    def _block_before(self, key: str) -> str:
        """The block before one that cannot be read, if a listing leaves no doubt which that is."""
        number = fmt.history_number(key) - 1
        listed = [item.key for item in self._store.list(f"history/{number}-")] if number >= 0 else []
        if number >= 0 and len(listed) != 1:
            self._found.unchecked.append((f"history/{number}-*", "which block came before is not known"))
        return listed[0] if len(listed) == 1 else ""

    def _walk(self, ids: list[str]) -> None:
        """Every retained ancestor. A parent is known from its child, else from ``ids``, else by listing."""
        following = dict(zip([self._manifest.snapshot, *ids], ids, strict=False))
        ahead = _Ahead(self, [id_ for id_ in ids if self._is_kept(self._sequence_of.get(id_))])
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="snapshot") as pool:
            ahead.pool = pool
            child: Manifest | None = self._manifest
            current, sequence = self._manifest.snapshot, self._manifest.sequence
            while sequence > self._manifest.oldest:
                parent = child.parent if child is not None else following.get(current, "")
                if child is not None:
                    self._compare(child, following.get(current, ""))
                elif not parent:
                    parent = self._only_one_below(sequence)
                if not parent or parent in self._visited:
                    break
                sequence = self._sequence_of.get(parent, sequence - 1)
                if not self._is_kept(sequence):
                    break
                self._visited.add(parent)
                child = self._take(sequence, parent, ahead.load(sequence, parent))
                current = parent

    def _is_kept(self, sequence: int | None) -> bool:
        return sequence is not None and sequence >= self._manifest.oldest

    def _only_one_below(self, sequence: int) -> str:
        """The snapshot before a lost one, where only a listing can name it and names no other."""
        candidates = self._ids_at.get(sequence - 1, [])
        if len(candidates) == 1:
            return candidates[0]
        if sequence - 1 >= self._manifest.oldest:
            self._found.unchecked.append(
                (f"snapshots/{sequence - 1:010d}-*", "the chain is broken above it and no object names it")
            )
        return ""

    def _compare(self, child: Manifest, parent: str) -> None:
        """The ids in the head and in the history blocks must be those that the snapshots themselves name."""
        if not parent or child.parent == parent:
            return
        spans = ((child.sequence, child.sequence),)
        named = f"{child.parent[:12] or 'none'} and {parent[:12]}"
        if child.parent in self._sequence_of and parent in self._block_of:
            what = f"it names another parent of sequence {child.sequence} than that itself: {named}"
            self._damage(Damage(Kind.HISTORY, self._block_of[parent], what))
            return
        key = fmt.snapshot_key(child.sequence, child.snapshot)
        what = f"its parent is not the one that its children name: {named}"
        self._damage(Damage(Kind.SNAPSHOT, key, what, spans))

    def _take(self, sequence: int, id_: str, loaded: Manifest | Exception) -> Manifest | None:
        if isinstance(loaded, Manifest):
            self._use_pages(loaded)
            return loaded
        key = fmt.snapshot_key(sequence, id_)
        self._found.count(Kind.SNAPSHOT)
        if isinstance(loaded, UnknownFeature):
            self._found.unchecked.append((key, loaded.message))
            return None
        what = loaded.message if isinstance(loaded, FormatError) else MISSING
        self._damage(Damage(Kind.SNAPSHOT, key, what, ((sequence, sequence),)))
        return None

    def _load(self, sequence: int, id_: str) -> Manifest | Exception:
        try:
            return twice(lambda: self._load_snapshot(sequence, id_))
        except (NotFound, FormatError, UnknownFeature) as error:
            return error

    def _load_snapshot(self, sequence: int, id_: str) -> Manifest:
        manifest = fmt.parse_manifest(self._load_copy(fmt.snapshot_key(sequence, id_))[1])
        if (manifest.sequence, manifest.snapshot) != (sequence, id_):
            raise FormatError("it holds another snapshot")
        if manifest.repository != self._manifest.repository:
            raise FormatError("it is of another repository")
        return manifest

    def _load_copy(self, key: str) -> tuple[bytes, bytes]:
        """The stored and the plain bytes of a snapshot."""
        found = self._store.get(key, max_bytes=fmt.MAX_HEAD)
        assert found is not None
        return found.body, decompress(found.body, fmt.MAX_HEAD)

    def _load_block(self, key: str) -> tuple[tuple[str, ...], str]:
        found = self._store.get(key, max_bytes=fmt.MAX_HEAD)
        assert found is not None
        return fmt.parse_history(found.body, key)

    def _load_list(self, key: str, fence: int) -> tuple[str, ...]:
        found = self._store.get(key, max_bytes=fmt.MAX_GC_LIST)
        assert found is not None
        return fmt.parse_gc_list(found.body, fence)

    def _check_collections(self) -> None:
        for fence, key in self._manifest.collections:
            self._found.count(Kind.COLLECTION)
            try:
                twice(lambda key=key, fence=fence: self._load_list(key, fence))  # type: ignore[misc]
            except NotFound:
                self._damage(Damage(Kind.COLLECTION, key, MISSING))
            except FormatError as error:
                self._damage(Damage(Kind.COLLECTION, key, error.message))

    def _damage(self, damage: Damage) -> None:
        self._found.damaged.append(damage)


class _Ahead:
    """Loads the snapshots that the walk will come to, some requests ahead of it."""

    def __init__(self, surveyor: _Surveyor, expected: list[str]) -> None:
        self._surveyor = surveyor
        self._expected: Iterator[str] = iter(expected)
        self._loading: dict[str, Future[Manifest | Exception]] = {}
        self._order: deque[str] = deque()
        self.pool: ThreadPoolExecutor

    def load(self, sequence: int, id_: str) -> Manifest | Exception:
        """The snapshot, waited for; those expected after it are asked for."""
        surveyor = self._surveyor
        while len(self._order) < surveyor._jobs and (following := next(self._expected, None)) is not None:
            place = surveyor._sequence_of[following]
            self._loading[following] = self.pool.submit(surveyor._load, place, following)
            self._order.append(following)
        future = self._loading.pop(id_, None)
        if future is None:
            return surveyor._load(sequence, id_)
        while self._order and (passed := self._order.popleft()) != id_:
            self._loading.pop(passed, None)
        return future.result()
