"""Making damaged objects anew, each just as it was, from what this machine has and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator

from manifest_sync import manifest as fmt
from manifest_sync.canonical import compress_document, decompress
from manifest_sync.errors import Damaged, FormatError
from manifest_sync.manifest import Manifest
from manifest_sync.model import ChunkRef, Hash
from manifest_sync.repair.localchunks import LocalChunks, Place, add_place
from manifest_sync.repair.packbuild import CannotBuild, Layout, build_pack
from manifest_sync.repair.relocate import HurtChunks
from manifest_sync.repository import Head
from manifest_sync.snapshots import list_snapshots
from manifest_sync.stores.base import NotFound
from manifest_sync.verify.damage import Damage, Kind
from manifest_sync.verify.packcheck import FrameReader
from manifest_sync.verify.packs import PackUse
from manifest_sync.verify.pages import PageRead
from manifest_sync.verify.verify import Examined
from manifest_sync.workspace import Workspace


class ObjectMaker:
    """Makes the objects that one look found damaged.

    Args:
        found: what was found.
        seen: the head that this machine had seen last before.
        collected: keys that are not written again, since a collection may delete them at any moment.
    """

    def __init__(self, ws: Workspace, found: Examined, seen: Head | None, collected: frozenset[str]) -> None:
        self._ws = ws
        self._found = found
        self._seen = seen
        self._collected = collected
        self._pages = {use.key: use for use in found.verifier.pages}
        self._packs = {use.key: use for use in found.verifier.packs.values()}
        self._gave_up_outside = False
        self.hurt: HurtChunks = {}
        """Chunks that the head needs out of packs which could not be made."""

    def make(self, damage: Damage) -> bytes | str:
        """The object, checked to be what belongs under its key; or why it cannot be made here."""
        if damage.key in self._collected:
            if damage.kind is Kind.PACK:
                self._give_up(self._packs[damage.key])
            return "a collection was allowed to delete it"
        if damage.kind is Kind.SNAPSHOT:
            return self._snapshot(damage.key)
        if damage.kind is Kind.HISTORY:
            return self._history(damage.key)
        if damage.kind is Kind.PAGE:
            return self._page(damage)
        if damage.kind is Kind.EXTERNAL:
            self._give_up_outside()
            return "it belongs to another tool"
        use = self._packs[damage.key]
        try:
            return self._pack(use)
        except CannotBuild as error:
            self._give_up(use)
            return str(error)

    def _snapshot(self, key: str) -> bytes | str:
        for known in (self._found.head, self._seen):
            if known is None:
                continue
            if key == fmt.snapshot_key(known.manifest.sequence, known.manifest.snapshot):
                return compress_document(known.body, checksum=True)
        return "this machine does not keep a copy of that snapshot"

    def _page(self, damage: Damage) -> bytes | str:
        if damage.between is None:
            return "it is as it was written; a machine that has the files can change them and push them again"
        ref = self._pages[damage.key].ref
        body = self._ws.index.load_page_body(ref.id)
        if body is None or self._found.verifier.page_reader.cached(ref) is None:
            return "this machine does not keep a copy of it"
        return body

    def _history(self, key: str) -> bytes | str:
        """A block lists what the snapshot after its last id names as its ancestors, one and all."""
        last = key.removesuffix(".json").rpartition("-")[2]
        listed = list_snapshots(self._ws.repository)
        after = next((sequence for sequence, id_ in listed if id_ == last), -1)
        for sequence, id_ in listed:
            manifest = self._load(sequence, id_) if sequence > after else None
            if manifest is None or manifest.parent != last or len(manifest.ancestors) != fmt.HISTORY_BLOCK:
                continue
            body = fmt.encode_history(manifest.ancestors, manifest.history)
            try:
                fmt.parse_history(body, key)
            except FormatError:
                continue
            return body
        return "no snapshot that is kept lists its ids"

    def _load(self, sequence: int, id_: str) -> Manifest | None:
        try:
            found = self._ws.repository.store.get(fmt.snapshot_key(sequence, id_), max_bytes=fmt.MAX_HEAD)
            assert found is not None
            return fmt.parse_manifest(decompress(found.body, fmt.MAX_HEAD))
        except (NotFound, Damaged):
            return None

    def _pack(self, use: PackUse) -> bytes:
        layout = Layout(use.ref)
        for read in self._read(use):
            layout.add(read.entries or ())
        with LocalChunks(self._ws.worktree) as local:
            return build_pack(layout, self._found.verifier.pack_reader.load(use), local)

    def _give_up(self, use: PackUse) -> None:
        """Note what the head needs of a pack, as far as it is hurt, and where that may be here."""
        layout = Layout(use.ref)
        needed: dict[ChunkRef, None] = {}
        for read in self._read(use):
            layout.add(read.entries or ())
            if read.use.head:
                chunks = (chunk for entry in read.entries or () for chunk in entry.chunks)
                needed |= dict.fromkeys(chunk for chunk in chunks if chunk.frame.pack == use.ref)
        frames = FrameReader(self._found.verifier.pack_reader.load(use))
        self.hurt |= {chunk: layout.places[chunk.id] for chunk in needed if frames.read(chunk) is None}

    def _give_up_outside(self) -> None:
        """Note what the head needs of the adopted objects that are lost: of all at once, they may be many."""
        if self._gave_up_outside:
            return
        self._gave_up_outside = True
        verifier = self._found.verifier
        lost = {ref for refs in verifier.lost_outside.values() for ref in refs}
        pages = sorted({page for ref in lost for page in verifier.packs[ref].pages})
        places: dict[Hash, list[Place]] = {}
        needed: dict[ChunkRef, None] = {}
        for read in verifier.page_reader.read((verifier.pages[page] for page in pages), lambda _: False):
            for entry in read.entries or ():
                position = 0
                for chunk in entry.chunks:
                    if chunk.frame.pack in lost:
                        add_place(places, chunk.id, Place(entry.path, position, entry.hash))
                        if read.use.head:
                            needed.setdefault(chunk)
                    position += chunk.length
        self.hurt |= {chunk: places[chunk.id] for chunk in needed}

    def _read(self, use: PackUse) -> Iterator[PageRead]:
        verifier = self._found.verifier
        return verifier.page_reader.read((verifier.pages[page] for page in use.pages), lambda _: False)
