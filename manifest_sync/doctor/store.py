"""The half of `doctor` that asks the store: access, clock, conditions, reads, checksums, and the head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from manifest_sync import manifest as fmt
from manifest_sync.config import Location
from manifest_sync.doctor.findings import Finding, failure, from_error, ok, skipped, warning
from manifest_sync.doctor.local import Seen
from manifest_sync.errors import (
    Damaged,
    FormatError,
    ManifestSyncError,
    NoRepository,
    UnknownFeature,
)
from manifest_sync.probe import condition_fault
from manifest_sync.recover.lineage import load_lineage
from manifest_sync.repository import Head, Repository
from manifest_sync.rights import try_rights
from manifest_sync.stores.base import NotFound, Store
from manifest_sync.stores.inspect import greet, identify, refuses_damage

MAX_SKEW_SECONDS = 60.0
RACERS = 8
LEFTOVER_SECONDS = 24 * 3600.0
RESTORE_HEAD = "`manifest-sync doctor --restore-head` writes a new one from the snapshots"
_SIZE = 1 << 16
_PROBES = "probe/"


class StoreChecks:
    """The checks of one store. Every object they make is named ``probe/<token>-...`` .

    Args:
        clock: this machine's time, in Unix seconds.
        token: a fresh random name.
    """

    def __init__(self, store: Store, location: Location, clock: Callable[[], float], token: str) -> None:
        self.store = store
        self._location = location
        self._clock = clock
        self._token = token
        self.can_read = False
        self.can_list = False
        self.can_write = False
        self.head: Head | None = None
        self._server_date: tuple[float, float] | None = None

    def check_endpoint(self) -> list[Finding]:
        """Whether anything answers there."""
        before = self._clock()
        greeting = greet(self._location)
        if greeting.date is not None:
            self._server_date = (greeting.date, (before + self._clock()) / 2)
        return [
            ok("endpoint", f"{greeting.place} answers ({greeting.server}, {greeting.seconds * 1000:.0f} ms)")
        ]

    def check_access(self) -> list[Finding]:
        """As whom we ask, and what we may do."""
        who = identify(self._location)
        with suppress(NotFound, FormatError):
            self.store.get(fmt.HEAD_KEY, max_bytes=fmt.MAX_HEAD)
        self.can_read = True
        rights = try_rights(self.store, self._key("access"))
        self.can_list, self.can_write = rights.list, rights.write
        if not rights.refused:
            return [ok("credentials", f"{who}: {rights.describe()}")]
        if not rights.write:
            return [
                warning(
                    "credentials",
                    f"read-only ({who}): {rights.describe()}",
                    "to push from here, use a key that may write to this bucket",
                )
            ]
        return [
            warning(
                "credentials",
                f"{who}: {rights.describe()}",
                "use a key that may list and delete too where that is needed, and to recover a lost head",
            )
        ]

    def check_clock(self) -> list[Finding]:
        """This machine's clock against the store's."""
        skew = self._skew()
        if skew is None:
            return [skipped("clock", "the store does not say what time it is")]
        if abs(skew) <= MAX_SKEW_SECONDS:
            return [ok("clock", f"this machine and the store agree to {max(1.0, abs(skew)):.0f} s")]
        where = "behind" if skew > 0 else "ahead of"
        return [
            warning(
                "clock",
                f"this machine's clock is {abs(skew):,.0f} s {where} the store's",
                "set it (NTP): nothing is lost by it, but the times in `log` are wrong, `--at TIME` finds "
                "another snapshot, and S3 refuses requests beyond 15 minutes",
            )
        ]

    def _skew(self) -> float | None:
        """The store's clock minus ours, in seconds; None when it cannot be known."""
        if self.can_write and self.can_list:
            key = self._key("clock")
            before = self._clock()
            self.store.put(key, b"what time is it")
            after = self._clock()
            for item in self.store.list(key):
                # Where the store's time lies between ours there is no skew to see.
                return 0.0 if before <= item.modified <= after else item.modified - (before + after) / 2
        if self._server_date is not None:
            theirs, ours = self._server_date
            return theirs - ours
        return None

    def check_conditions(self) -> list[Finding]:
        """The compare-and-swap, by a real race; with one writer it does not matter much."""
        if not self.can_write:
            return [skipped("compare-and-swap", "the store cannot be written from here")]
        fault = condition_fault(self.store, f"{self._token}-1", racers=RACERS)
        fault = fault or condition_fault(self.store, f"{self._token}-2", racers=2 * RACERS)
        if not fault:
            return [ok("compare-and-swap", f"one of {2 * RACERS} racing writers won, each time")]
        if self.head is not None and self.head.manifest.single_writer:
            return [
                warning(
                    "compare-and-swap",
                    f"the store ignores conditional writes: {fault}",
                    "the repository was made with --single-writer: never push from a second machine",
                )
            ]
        return [
            failure(
                "compare-and-swap",
                f"the store ignores conditional writes: {fault}",
                "two machines that push at once would lose files: use another store, or push from one "
                "machine only",
                1,
            )
        ]

    def check_reads(self) -> list[Finding]:
        """Whether what was written is what is read, listed, and gone when it was deleted."""
        if not self.can_write:
            return [skipped("reads", "the store cannot be written from here")]
        fault = self._read_fault()
        if fault:
            return [
                failure(
                    "reads",
                    f"{self.store.location}: {fault}",
                    "a cache or proxy between here and the store answers for it: reach the store directly",
                    5,
                )
            ]
        return [ok("reads", "what is written is read at once, also in ranges")]

    def _read_fault(self) -> str:
        store, key = self.store, self._key("reads")
        for turn in range(3):
            body = bytes((n * 7 + n // 256 + turn) % 256 for n in range(_SIZE))
            store.put(key, body)
            found = store.get(key, max_bytes=_SIZE)
            if found is None or found.body != body:
                return "an object that was overwritten was read as it was before"
            if store.get_range(key, 1000, 50_000) != body[1000:51_000]:
                return "a ranged read gave other bytes than were asked for"
            if store.get(key, unless_etag=found.etag, max_bytes=_SIZE) is not None:
                return "a conditional read of an unchanged object sent it again"
        if self.can_list and [item.size for item in store.list(key)] != [_SIZE]:
            return "a listing does not show what was written"
        store.delete(key)
        with suppress(NotFound):
            store.get(key, max_bytes=_SIZE)
            return "an object that was deleted was read"
        return ""

    def check_checksums(self) -> list[Finding]:
        """Whether the store checks what it receives."""
        if not self.can_write:
            return [skipped("checksums", "the store cannot be written from here")]
        refuses = refuses_damage(self._location, self._key("checksum"))
        if refuses is None:
            return [ok("checksums", "a folder receives nothing over a network")]
        if refuses:
            return [ok("checksums", "an upload that was damaged on its way is refused")]
        return [
            warning(
                "checksums",
                "the store keeps an upload that is not what its Content-MD5 says",
                "damage on the way shows only when it is read: use https, and sometimes `verify --read-data`",
            )
        ]

    def check_head(self, repository: Repository, seen: Seen) -> list[Finding]:
        """The head: there, readable, of the repository known here, and descended from the one seen last."""
        try:
            self.head = repository.load_head()
        except UnknownFeature as error:
            return [from_error("head", error)]
        except FormatError as error:
            return [
                failure("head", error.message + self._what_is_left(repository), RESTORE_HEAD, error.exit_code)
            ]
        except NoRepository as error:
            left = self._what_is_left(repository)
            if not left:
                return [from_error("head", error)]
            lost = f"{fmt.HEAD_KEY} is missing from {self.store.location}{left}"
            return [failure("head", lost, RESTORE_HEAD, Damaged.exit_code)]
        manifest = self.head.manifest
        try:
            repository.check_descends(self.head, repository=seen.repository, snapshot=seen.snapshot)
        except ManifestSyncError as error:
            return [from_error("head", error)]
        what = (
            f"sequence {manifest.sequence} of {manifest.time} by {manifest.host}, files: {manifest.files:,}"
        )
        if not manifest.can_write:
            return [
                warning(
                    "head",
                    f"{what}; written by a newer version ({manifest.writer})",
                    "upgrade manifest-sync to push; pull works as it is",
                )
            ]
        since = ", descended from the one seen here last" if seen.snapshot else ""
        return [ok("head", what + since)]

    def _what_is_left(self, repository: Repository) -> str:
        """What a new head could be made from, as the end of a sentence; '' when there is nothing."""
        if not self.can_list:
            return ""
        lineage = load_lineage(repository)
        kept, candidates = len(lineage.sequences), lineage.candidates()
        if not kept:
            return ""
        if len(candidates) != 1:
            return f"; {kept} snapshots are kept, {len(candidates)} of them may be the last"
        last = candidates[0]
        return (
            f"; {kept} snapshots are kept, the last is sequence {last.sequence} of {last.time} by {last.host}"
        )

    def check_copy(self, repository: Repository) -> list[Finding]:
        """The snapshot copy of the head, from which a lost head is restored."""
        if self.head is None:
            return [skipped("snapshot copy", "there is no head to compare with")]
        manifest = self.head.manifest
        key = fmt.snapshot_key(manifest.sequence, manifest.snapshot)
        found = repository.load_snapshot(manifest.sequence, manifest.snapshot)
        if found is None or fmt.encode_manifest(found) != fmt.encode_manifest(manifest):
            what = "missing" if found is None else "not the same"
            return [
                failure(
                    "snapshot copy",
                    f"{key}, the copy of the head, is {what}",
                    "`manifest-sync verify` names what is damaged; the next push makes a head with a copy",
                    Damaged.exit_code,
                )
            ]
        return [ok("snapshot copy", f"{key} is the same as the head")]

    def clean(self) -> list[Finding]:
        """Remove every probe of this run, and those that killed runs left more than a day ago."""
        with suppress(ManifestSyncError):
            for name in ("access", "clock", "reads", "checksum") if self.can_write else ():
                self.store.delete(self._key(name))
        if not (self.can_list and self.can_write):
            return []
        items = list(self.store.list(_PROBES))
        newest = max((item.modified for item in items), default=0.0)
        kept = []
        for item in items:
            is_ours = item.key.startswith(self._key(""))
            if is_ours or item.modified < newest - LEFTOVER_SECONDS:
                try:
                    self.store.delete(item.key)
                except ManifestSyncError:
                    kept.append(item.key)
        if not kept:
            return []
        cure = "delete them with another tool; they are small and do no harm"
        return [warning("probes", f"could not be removed again: {', '.join(kept[:5])}", cure)]

    def _key(self, name: str) -> str:
        return f"{_PROBES}{self._token}-{name}"
