"""Is everything there that a snapshot names? By listing, without a head, beside collections gone by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from manifest_sync import manifest as fmt
from manifest_sync.errors import Damaged, FormatError
from manifest_sync.keys import collection_fence, parse_snapshot_key
from manifest_sync.manifest import Manifest
from manifest_sync.model import PackRef, Path, json_path
from manifest_sync.page_reader import parse_listed
from manifest_sync.pages import MAX_PAGE_RAW, PageRef
from manifest_sync.recover.lineage import Lineage
from manifest_sync.repository import Repository
from manifest_sync.snapshots import list_snapshots
from manifest_sync.stores.base import NotFound

MOST_PATHS = 20


@dataclass(slots=True)
class Loss:
    """An object that a snapshot needs and that is gone, or may go; ``paths`` are some of the files in it."""

    key: str
    what: str
    files: int = 0
    paths: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """One item of ``losses``."""
        return {
            "key": self.key,
            "what": self.what,
            "files": self.files,
            "paths": [json_path(path) for path in self.paths],
        }


class Shelf:
    """The objects of a repository whose head is lost, listed once.

    What a collection of a higher fence names counts as gone, though it be there: it may be being deleted. The
    lists of collections that certainly never became the head's are left out.

    ``snapshots`` are the ids of the snapshots there, ``collected`` of those that collections name. ``lists``
    are the keys of the lists by fence, where that is certain; ``fence`` is the highest one found.
    """

    def __init__(self, repository: Repository, lineage: Lineage, candidates: list[Manifest]) -> None:
        self._repository = repository
        store = repository.store
        self._sizes = {item.key: item.size for kind in ("pages/", "packs/") for item in store.list(kind)}
        self.snapshots = {id_ for _, id_ in list_snapshots(repository)}
        keys = sorted(item.key for item in store.list("gc/") if collection_fence(item.key) is not None)
        fences = {key: collection_fence(key) or 0 for key in keys}
        kept = {key for leaf in candidates for _, key in leaf.collections}
        never = {key for leaf in lineage.lost_races() for _, key in leaf.collections} - kept
        self.fence = max([0, *fences.values(), *self._session_fences()])
        self.lists: dict[int, str] = {}
        self._by_fence: list[tuple[int, frozenset[str] | None, str]] = []
        for key in keys:
            if key in never:
                continue
            self.lists[fences[key]] = key if fences[key] not in self.lists else ""
            self._by_fence.append((fences[key], self._read_list(key), key))
        self.lists = {fence: key for fence, key in self.lists.items() if key}
        named = frozenset().union(*(names for _, names, _ in self._by_fence if names is not None))
        self.collected = {found[1] for key in named if (found := parse_snapshot_key(key)) is not None}

    def _session_fences(self) -> Iterator[int]:
        for key in self._sizes:
            fence = key.split("/")[1].partition("-")[0]
            if fence.isdecimal():
                yield int(fence)

    def _read_list(self, key: str) -> frozenset[str] | None:
        try:
            found = self._repository.store.get(key, max_bytes=fmt.MAX_GC_LIST)
            return None if found is None else frozenset(fmt.parse_gc_list(found.body))
        except (NotFound, Damaged):
            return None

    def losses(self, manifest: Manifest) -> list[Loss]:
        """What ``manifest`` needs and cannot count on, pages first; empty when all is there."""
        unreadable = [
            Loss(key, "this collection's list cannot be read: what it named is not known", manifest.files)
            for fence, names, key in self._by_fence
            if fence > manifest.fence and names is None
        ]
        gone = {
            name: key
            for fence, names, key in self._by_fence
            if fence > manifest.fence and names is not None
            for name in names
        }
        pages = []
        losses = []
        own = fmt.snapshot_key(manifest.sequence, manifest.snapshot)
        if own in gone:
            losses.append(Loss(own, _named_by(gone[own])))
        for ref in manifest.pages:
            what = self._page_fault(ref, gone)
            if what:
                losses.append(Loss(fmt.page_key(ref.session, ref.id), what, ref.files, [ref.first]))
            else:
                pages.append(ref)
        return [*unreadable, *losses, *self._pack_losses(pages, gone)]

    def _page_fault(self, ref: PageRef, gone: dict[str, str]) -> str:
        key = fmt.page_key(ref.session, ref.id)
        if key in gone:
            return _named_by(gone[key])
        if self._sizes.get(key) == ref.stored:
            return ""
        # A listing may be short; what it lacks is asked for.
        try:
            found = self._repository.store.get(key, max_bytes=MAX_PAGE_RAW)
            parse_listed(ref, b"" if found is None else found.body)
        except NotFound:
            return "it is missing"
        except FormatError as error:
            return f"it is damaged: {error.message}"
        return ""

    def _pack_losses(self, pages: list[PageRef], gone: dict[str, str]) -> list[Loss]:
        checked: set[PackRef] = set()
        lost: dict[PackRef, Loss] = {}
        for _, entries in self._repository.load_pages(pages):
            for entry in entries:
                for chunk in entry.chunks:
                    pack = chunk.frame.pack
                    if pack not in checked and not pack.is_external:
                        checked.add(pack)
                        what = self._pack_fault(pack, gone)
                        if what:
                            lost[pack] = Loss(fmt.pack_key(pack.session, pack.id), what)
                for pack in {chunk.frame.pack for chunk in entry.chunks} & lost.keys():
                    lost[pack].files += 1
                    if len(lost[pack].paths) < MOST_PATHS:
                        lost[pack].paths.append(entry.path)
        return list(lost.values())

    def _pack_fault(self, pack: PackRef, gone: dict[str, str]) -> str:
        key = fmt.pack_key(pack.session, pack.id)
        if key in gone:
            return _named_by(gone[key])
        size = self._sizes.get(key)
        if size == pack.size:
            return ""
        if size is None:
            try:
                self._repository.store.get_range(key, pack.size - 1, 1)
            except NotFound:
                return "it is missing"
            except FormatError as error:
                return f"it is damaged: {error.message}"
            return ""
        return f"it has {size:,} bytes instead of {pack.size:,}"


def _named_by(list_key: str) -> str:
    return f"named by {list_key}: it may be deleted at any moment"
