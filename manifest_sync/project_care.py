"""The commands that look after the bucket: `manifest_sync.project` adds those of every day.

Operations are imported where they are called: a push with nothing to do must not pay for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from manifest_sync.errors import UsageError
from manifest_sync.project_history import ProjectHistory

if TYPE_CHECKING:
    from manifest_sync.doctor.findings import Finding
    from manifest_sync.gc.gc import GcReport
    from manifest_sync.pins import PinReport
    from manifest_sync.recover.recover import HeadRestore
    from manifest_sync.repair.repair import RepairReport
    from manifest_sync.stores.base import Store
    from manifest_sync.verify.damage import VerifyReport


class ProjectCare(ProjectHistory):
    """A project's folder with the commands that check, repair and collect."""

    @classmethod
    def doctor(
        cls, start: str | None = None, *, env: Mapping[str, str] | None = None, store: Store | None = None
    ) -> Iterator[Finding]:
        """What is wrong with the project at ``start`` (default: the working folder), as it is found.

        Args:
            env: the environment to take credentials from (default: the process's).
            store: use this store instead of the configured bucket.
        """
        from manifest_sync.doctor.doctor import diagnose

        env = os.environ if env is None else env
        return diagnose(start or os.getcwd(), env=env, clock=time.time, store=store)

    def restore_head(self, snapshot: str = "", *, accept_missing: bool = False) -> HeadRestore:
        """Write a lost or damaged head anew from the snapshots; see `recover.restore_head`."""
        from manifest_sync.recover.recover import restore_head

        with self.workspace(()) as ws:
            return restore_head(ws, snapshot, accept_missing=accept_missing)

    def gc(
        self,
        *,
        keep_last: int | None = None,
        keep_within: timedelta | None = None,
        min_age: timedelta | None = None,
        repack: bool = True,
        apply: bool = False,
    ) -> GcReport:
        """Free what no retained snapshot needs; without ``apply`` only say what would be freed.

        Args:
            keep_last: how many snapshots are kept; with neither this nor ``keep_within``: 10 and 30 days.
            keep_within: snapshots younger than this are kept.
            min_age: what was written less long ago stays; None for a day.
            repack: write packs anew that are mostly dead.
        """
        from manifest_sync.gc.gc import DEFAULT_MIN_AGE, GcOptions, gc
        from manifest_sync.gc.retention import parse_retention

        options = GcOptions(
            parse_retention(keep_last, keep_within),
            DEFAULT_MIN_AGE if min_age is None else min_age,
            apply,
            repack,
        )
        with self.workspace((), must_lock=apply) as ws:
            return self._timed(ws, lambda: gc(ws, options))

    def pin(self, snapshot: str, name: str = "") -> PinReport:
        """Keep a snapshot until it is unpinned; see `Snapshots.find` for what it may be called."""
        from manifest_sync.pins import pin

        with self.workspace(()) as ws:
            return self._timed(ws, lambda: pin(ws, snapshot, name))

    def unpin(self, snapshot: str) -> PinReport:
        """Let go of a pinned snapshot, by its name, sequence number or a prefix of its id."""
        from manifest_sync.pins import unpin

        with self.workspace(()) as ws:
            return self._timed(ws, lambda: unpin(ws, snapshot))

    def verify(self, read_data: bool = False, local: bool = False) -> VerifyReport:
        """Whether the bucket holds, whole, what its head reaches; nothing is written.

        Args:
            read_data: read every byte, instead of only looking whether objects are there with their size.
            local: look at nothing but the files here: whether their content is what the index recorded.

        Raises:
            UsageError: both.
        """
        from manifest_sync.verify.verify import verify, verify_local

        if read_data and local:
            raise UsageError("--local looks at no bucket, so there is no data to read", "use one of them")
        with self.workspace((), must_lock=False) as ws:
            return self._timed(ws, lambda: verify_local(ws) if local else verify(ws, read_data=read_data))

    def repair(
        self,
        read_data: bool = False,
        dry_run: bool = False,
        message: str = "",
        drop_lost: bool = False,
    ) -> RepairReport:
        """Write again, from what is here, what is missing or damaged in the bucket; sends nothing else.

        Args:
            read_data: look for damage by reading every byte.
            dry_run: only say what would be done.
            message: recorded with the snapshot, if one has to be published.
            drop_lost: let go of lists of files that are lost and not kept here; what is here of them and was
                known to be in the bucket is sent again.
        """
        from manifest_sync.repair.repair import RepairOptions, repair

        options = RepairOptions(read_data, dry_run, message, drop_lost)
        with self.workspace(()) as ws:
            return self._timed(ws, lambda: repair(ws, options))
