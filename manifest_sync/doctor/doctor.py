"""`doctor`: one check after the other, each with the cause and the cure of what it finds.

A check that fails or hangs does not stop the others: each runs in a thread with a deadline, and what needs
what has failed is named as skipped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence

from manifest_sync.bounded import TimedOut, within
from manifest_sync.config import find_project, load_config
from manifest_sync.doctor.findings import Finding, Level, failure, from_error, ok, skipped
from manifest_sync.doctor.local import Seen, check_filesystems, check_index, check_lock, check_root
from manifest_sync.doctor.store import StoreChecks
from manifest_sync.errors import ManifestSyncError, StoreUnavailable, UsageError
from manifest_sync.initialize import NoCache
from manifest_sync.project_folder import ProjectFolder
from manifest_sync.repository import Repository
from manifest_sync.stores import open_store
from manifest_sync.stores.base import NotFound, PreconditionFailed, Store, Unknown

QUICK_SECONDS = 60.0
SLOW_SECONDS = 600.0
"""For reading the whole index, and for racing writers on a store that turns them away."""

STORE_CHECKS = ("clock", "head", "snapshot copy", "compare-and-swap", "reads", "checksums")


def diagnose(
    start: str,
    *,
    env: Mapping[str, str],
    clock: Callable[[], float],
    store: Store | None = None,
    quick_seconds: float = QUICK_SECONDS,
) -> Iterator[Finding]:
    """The findings, as they are made.

    Args:
        start: where to look for the project.
        env: the environment to take credentials from.
        clock: this machine's time, in Unix seconds.
        store: use this store instead of the configured bucket.
        quick_seconds: how long an ordinary check may take.
    """
    try:
        config = load_config(find_project(start))
    except UsageError as error:
        yield from_error("configuration", error)
        return
    folder = ProjectFolder(config, env=env, store=store)
    yield ok("configuration", f"{config.project_dir}: bucket {config.bucket}, root {config.root}")
    seen = Seen()

    def index() -> list[Finding]:
        nonlocal seen
        findings, seen = check_index(folder)
        return findings

    yield from _run("lock", lambda: check_lock(folder), quick_seconds)
    yield from _run("index", index, SLOW_SECONDS)
    yield from _run("root", lambda: check_root(folder, seen), quick_seconds)
    yield from _run("filesystem", lambda: check_filesystems(folder), quick_seconds)
    try:
        location = folder.location()
        store = store or open_store(location, patient=False)
    except ManifestSyncError as error:
        yield from_error("credentials", error)
        return
    checks = StoreChecks(store, location, clock, secrets.token_hex(8))
    try:
        yield from _store_findings(checks, seen, quick_seconds)
    finally:
        store.close()


def _store_findings(checks: StoreChecks, seen: Seen, seconds: float) -> Iterator[Finding]:
    endpoint = _run("endpoint", checks.check_endpoint, seconds)
    yield from endpoint
    if any(finding.level is Level.FAILURE for finding in endpoint):
        yield skipped("credentials", "the store cannot be reached")
        yield from (skipped(name, "the store cannot be reached") for name in STORE_CHECKS)
        return
    repository = Repository(checks.store, NoCache())
    try:
        yield from _run("credentials", checks.check_access, seconds)
        if not checks.can_read:
            yield from (skipped(name, "the store cannot be read from here") for name in STORE_CHECKS)
            return
        yield from _run("clock", checks.check_clock, seconds)
        yield from _run("head", lambda: checks.check_head(repository, seen), seconds)
        yield from _run("snapshot copy", lambda: checks.check_copy(repository), seconds)
        yield from _run("compare-and-swap", checks.check_conditions, SLOW_SECONDS)
        yield from _run("reads", checks.check_reads, seconds)
        yield from _run("checksums", checks.check_checksums, seconds)
    finally:
        left = _run("probes", checks.clean, seconds)
    yield from left


def _run(name: str, check: Callable[[], Sequence[Finding]], seconds: float) -> Sequence[Finding]:
    """A check's findings; whatever it raises is one."""
    try:
        return within(seconds, check)
    except TimedOut:
        return [
            failure(
                name,
                f"no answer within {seconds:g} seconds",
                "the disk, the network or the store hangs: try again, and look at mounts and proxies",
                StoreUnavailable.exit_code,
            )
        ]
    except ManifestSyncError as error:
        return [from_error(name, error)]
    except (NotFound, PreconditionFailed, Unknown) as error:
        return [
            failure(name, str(error), "the store contradicts itself: try again", StoreUnavailable.exit_code)
        ]
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [failure(name, f"{where}{error.strerror or error}", "check the disk and its permissions", 1)]
    except Exception as error:  # noqa: BLE001  one check must not take the others with it
        what = f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [failure(name, what, "report it, with the output of `manifest-sync --debug doctor`", 1)]
