"""Verify: does the bucket hold what its head reaches, whole? Reads, and writes nothing.

snapshots → pages → packs (a listing, or every byte) → whom does it hurt → has a collection come by meanwhile?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manifest_sync import manifest as fmt
from manifest_sync import observe, statcache
from manifest_sync.canonical import decompress
from manifest_sync.errors import (
    Damaged,
    FormatError,
    NoRepository,
    RolledBack,
    UnknownFeature,
    WrongRepository,
)
from manifest_sync.model import Entry, PackRef, Path
from manifest_sync.repository import Head
from manifest_sync.scope import Scope
from manifest_sync.snapshots import list_snapshots
from manifest_sync.stores.base import NotFound
from manifest_sync.verify.damage import Damage, HurtFile, Kind, Ranges, VerifyReport, make_ranges
from manifest_sync.verify.external import ExternalReader
from manifest_sync.verify.packcheck import FrameReader
from manifest_sync.verify.packs import PackReader, PackUse
from manifest_sync.verify.pages import LenientPages, PageRead
from manifest_sync.verify.survey import PageUse, survey
from manifest_sync.verify.wholefiles import WholeFiles
from manifest_sync.workspace import Workspace

MAX_ROUNDS = 4
"""How often all is looked at anew because collections went by and what they took is not known."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One look at a bucket: what was found, and what was looked at.

    ``stands_in``: there is no readable head; ``head`` is the newest snapshot.
    """

    head: Head
    stands_in: bool
    report: VerifyReport
    verifier: Verifier


def verify(ws: Workspace, *, read_data: bool) -> VerifyReport:
    """Look at everything that the head, the retained snapshots and the pins reach.

    Args:
        read_data: read and check every byte, instead of only whether objects are there with their size.

    Raises:
        NoRepository: there is neither a head nor a snapshot.
        RolledBack, WrongRepository: the head is not one that this machine may follow.
        StoreUnavailable, AccessDenied: the store failed.
    """
    return examine(ws, read_data=read_data).report


def examine(ws: Workspace, *, read_data: bool, suspects: frozenset[str] = frozenset()) -> Examined:
    """`verify`, and what it worked with.

    Args:
        suspects: keys of pages and packs that are read and checked in any case.
    """
    head, lost = _load_head(ws)
    for _ in range(MAX_ROUNDS):
        report = VerifyReport(read_data=read_data)
        report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
        report.files = head.manifest.files
        verifier = Verifier(ws, head, report, suspects)
        verifier.run()
        if not report.damaged or lost is not None:
            break
        # Beside a collection, an object may go that this run still looked for: then the head has moved.
        latest = ws.repository.load_head(head)
        gone = ws.repository.collected(latest, head.manifest.fence)
        if gone is not None:
            report.damaged = [damage for damage in report.damaged if damage.key not in gone]
            report.unchecked = [pair for pair in report.unchecked if pair[0] not in gone]
            break
        ws.progress.note("collections went by meanwhile; looking at everything again")
        head = latest
    if lost is not None:
        report.damaged.insert(0, lost)
    return Examined(head, lost is not None, report, verifier)


def verify_local(ws: Workspace) -> VerifyReport:
    """Read every file here again and compare with what the index recorded; the index is left as it is."""
    report = VerifyReport(local=True)
    scope = Scope.everything()
    observe.check_root(ws)
    with ws.index.rolled_back():
        observed = statcache.scan(ws, scope, checksum=True)
        report.files = ws.index.totals()[0]
    report.missed = observed.missed
    report.skipped = sorted(observed.skipped.items())
    return report


def _load_head(ws: Workspace) -> tuple[Head, Damage | None]:
    """The head; when it is lost or damaged, that, and the newest snapshot to stand in for it."""
    try:
        head = ws.repository.load_head()
    except (NoRepository, FormatError) as error:
        stand_in = _newest_snapshot(ws)
        if stand_in is None:
            raise
        what = "it is missing" if isinstance(error, NoRepository) else error.message
        spans = ((stand_in.manifest.sequence, stand_in.manifest.sequence),)
        return stand_in, Damage(Kind.HEAD, fmt.HEAD_KEY, what, spans, head=True)
    if not ws.accept_rollback:
        known, seen = ws.index.get_meta("repository"), ws.index.get_meta("snapshot")
        try:
            ws.repository.check_descends(head, repository=known, snapshot=seen)
        except (RolledBack, WrongRepository):
            raise
        except Damaged:
            # A history block cannot be read; it will be named with the rest.
            pass
    return head, None


def _newest_snapshot(ws: Workspace) -> Head | None:
    for sequence, id_ in reversed(list_snapshots(ws.repository)):
        try:
            found = ws.repository.store.get(fmt.snapshot_key(sequence, id_), max_bytes=fmt.MAX_HEAD)
            assert found is not None
            body = decompress(found.body, fmt.MAX_HEAD)
            return Head(fmt.parse_manifest(body), "", body)
        except (NotFound, FormatError, UnknownFeature):
            continue
    return None


class Verifier:
    """One look at what one head reaches; fills in a report."""

    def __init__(
        self, ws: Workspace, head: Head, report: VerifyReport, suspects: frozenset[str] = frozenset()
    ) -> None:
        self._ws = ws
        self._suspects = suspects
        self._head = head
        self._report = report
        store = ws.repository.store
        self._store = store
        self.page_reader = LenientPages(store, ws.index, ws.jobs)
        self.pack_reader = PackReader(store, ws.jobs, ws.progress)
        self._files = WholeFiles()
        self.packs: dict[PackRef, PackUse] = {}
        self.pages: list[PageUse] = []
        self.lost_outside: dict[str, set[PackRef]] = {}
        """What is lost of the adopted objects, by URL."""

    def run(self) -> None:
        """Survey, check, and find out whom it hurts."""
        report = self._report
        surveyed = survey(self._ws.repository, self._head, jobs=self._ws.jobs)
        report.damaged += surveyed.damaged
        report.unchecked += surveyed.unchecked
        self.pages = list(surveyed.pages.values())
        self._check_pages()
        own = [use for use in self.packs.values() if not use.ref.is_external]
        self._check_packs(own)
        report.checked = {**surveyed.checked, Kind.PAGE.value: len(self.pages), Kind.PACK.value: len(own)}
        outside = [ref for ref in self.packs if ref.is_external]
        if outside:
            report.checked[Kind.EXTERNAL.value] = self._check_external(outside)

    def _check_pages(self) -> None:
        if self._report.read_data:
            listed = {}
        else:
            expected = {use.key for use in self.pages}
            listed = {i.key: i.size for i in self._store.list("pages/") if i.key in expected}
        reads = self.page_reader.read(
            self.pages, lambda use: listed.get(use.key) != use.ref.stored or use.key in self._suspects
        )
        for number, read in enumerate(reads):
            if read.what:
                self._report.damaged.append(_page_damage(read))
            if read.entries is None:
                self._report.unchecked.append(
                    (read.use.key, f"the packs of its {read.use.ref.files} files are not known")
                )
                continue
            self._note_packs(number, read.entries)

    def _note_packs(self, page: int, entries: Iterable[Entry]) -> None:
        read_data = self._report.read_data
        for entry in entries:
            numbers = []
            external = False
            for chunk in entry.chunks:
                ref = chunk.frame.pack
                use = self.packs.get(ref)
                if use is None:
                    use = self.packs[ref] = PackUse(ref, len(self.packs))
                use.add_page(page)
                external = external or ref.is_external
                if read_data:
                    use.add_chunk(chunk)
                    numbers.append(use.number)
            if len(numbers) > 1 and not external:
                self._files.add(entry, numbers, page)

    def _check_packs(self, packs: list[PackUse]) -> None:
        if not packs:
            return
        reader, progress = self.pack_reader, self._ws.progress
        if not self._report.read_data:
            for read in reader.list_all(packs, self._suspects):
                self._blame_pack(read.use, read.what)
            return
        progress.begin("transfer", files=len(packs), bytes_=sum(use.ref.size for use in packs))
        damaged: list[tuple[PackUse, str]] = []
        for read in reader.read_all(packs, self._files):
            if read.what:
                damaged.append((read.use, read.what))
            elif read.disagrees:
                self._blame_places(read.use)
        reader.finish(self._files, list(self.packs.values()), {use.number for use, _ in damaged})
        progress.end("transfer")
        self._report.bytes = reader.bytes
        for use, what in damaged:
            self._blame_pack(use, what)
        self._blame_wrong_files()

    def _check_external(self, outside: list[PackRef]) -> int:
        report, progress = self._report, self._ws.progress
        reader = ExternalReader(self._store, self._ws.jobs, progress)
        unreachable = reader.unreachable(outside)
        report.unchecked += [(pack.url, why) for pack, why in unreachable.items()]
        packs = [pack for pack in outside if pack not in unreachable]
        found = reader.list_all(packs)
        if report.read_data:
            progress.begin("transfer", bytes_=sum(pack.size for pack in packs))
            entries = (
                entry
                for read in self.page_reader.read(self.pages, lambda _: False)
                for entry in read.entries or ()
            )
            found = {**reader.read_all(entries, set(packs)), **found}
            progress.end("transfer")
            report.bytes += reader.bytes
        self._blame_external(found)
        return len(packs)

    def _blame_external(self, found: dict[PackRef, str]) -> None:
        """All at once: another tool may have changed a great many."""
        files: dict[str, _Files] = {ref.url: _Files() for ref in found}
        pages = sorted({page for ref in found for page in self.packs[ref].pages})
        for read in self.page_reader.read((self.pages[page] for page in pages), lambda _: False):
            for entry in read.entries or ():
                for ref in {chunk.frame.pack for chunk in entry.chunks} & found.keys():
                    self.lost_outside.setdefault(ref.url, set()).add(ref)
                    files[ref.url].add(entry, read.use)
        what = {ref.url: reason for ref, reason in found.items()}
        for url in sorted(files):
            uses = (page for ref in self.lost_outside[url] for page in self.packs[ref].pages)
            self._add(Kind.EXTERNAL, url, what[url], files[url].hurt(), self._snapshots(uses))

    def _hurt_by(self, use: PackUse) -> Callable[[Entry], bool]:
        """Tells whether an entry needs a chunk that cannot be read from this pack."""
        frames = FrameReader(self.pack_reader.load(use))
        return lambda entry: any(c.frame.pack == use.ref and frames.read(c) is None for c in entry.chunks)

    def _blame_pack(self, use: PackUse, what: str) -> None:
        files = self._hurt(use.pages, self._hurt_by(use))
        self._add(Kind.PACK, use.key, what, files, self._snapshots(use.pages))

    def _blame_places(self, use: PackUse) -> None:
        """A page names a chunk that the pack's own tables do not: fine, if its bytes are there."""
        self._blame_pages(use.pages, self._hurt_by(use), f"it names chunks that {use.key} does not hold")

    def _blame_wrong_files(self) -> None:
        wrong = {file.id for file in self._files.wrong}
        pages = sorted({page for file in self._files.wrong for page in file.pages})
        self._blame_pages(
            pages,
            lambda entry: len(entry.chunks) > 1 and WholeFiles.identify(entry) in wrong,
            "the chunks that it lists for a file do not make up the file's hash",
        )

    def _blame_pages(self, pages: Iterable[int], is_hurt: Callable[[Entry], bool], what: str) -> None:
        for page in pages:
            files = self._hurt([page], is_hurt)
            if files:
                self._add(Kind.PAGE, self.pages[page].key, what, files, self._snapshots([page]))

    def _add(self, kind: Kind, key: str, what: str, files: tuple[HurtFile, ...], snapshots: Ranges) -> None:
        head = any(file.head for file in files)
        self._report.damaged.append(Damage(kind, key, what, snapshots, head, files, len(files)))

    def _snapshots(self, pages: Iterable[int]) -> Ranges:
        return make_ranges(span for page in pages for span in self.pages[page].spans)

    def _hurt(self, pages: Iterable[int], is_hurt: Callable[[Entry], bool]) -> tuple[HurtFile, ...]:
        """Which files of these pages are hurt, and in which snapshots."""
        found = _Files()
        for read in self.page_reader.read((self.pages[page] for page in pages), lambda _: False):
            for entry in read.entries or ():
                if is_hurt(entry):
                    found.add(entry, read.use)
        return found.hurt()


class _Files:
    """Hurt files by path, collected page by page."""

    def __init__(self) -> None:
        self._found: dict[Path, tuple[list[tuple[int, int]], bool, str]] = {}

    def add(self, entry: Entry, use: PageUse) -> None:
        spans, head, host = self._found.get(entry.path, ([], False, entry.writer.host))
        self._found[entry.path] = ([*spans, *use.spans], head or use.head, host)

    def hurt(self) -> tuple[HurtFile, ...]:
        return tuple(
            HurtFile(path, make_ranges(spans), head, host)
            for path, (spans, head, host) in sorted(self._found.items())
        )


def _page_damage(read: PageRead) -> Damage:
    use = read.use
    files = tuple(
        HurtFile(entry.path, use.snapshots, use.head, entry.writer.host) for entry in read.entries or ()
    )
    return Damage(
        Kind.PAGE,
        use.key,
        read.what,
        use.snapshots,
        use.head,
        files,
        use.ref.files,
        (use.ref.first, use.ref.last),
        read.cached,
    )
