"""What every operation works with: the worktree, the index, the repository, and who and when we are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from manifest_sync import manifest as fmt
from manifest_sync.index.index import Index
from manifest_sync.model import Writer
from manifest_sync.ownership import Ownership
from manifest_sync.report import Progress
from manifest_sync.repository import Commit, Repository
from manifest_sync.times import rfc3339
from manifest_sync.worktree import Worktree


@dataclass(frozen=True, slots=True)
class Workspace:
    """One machine's side of a repository, opened for one run.

    Clock and randomness come from outside, so that a test can choose them.
    """

    worktree: Worktree
    index: Index
    repository: Repository
    ownership: Ownership
    progress: Progress
    machine: str
    host: str
    version: str
    jobs: int
    accept_rollback: bool
    holds_lock: bool
    """False beside a run that holds it: then the index is a copy, and the tree and its trash are not ours."""
    now: Callable[[], datetime]
    random_bytes: Callable[[int], bytes]
    sleep: Callable[[float], None]

    def writer(self) -> Writer:
        """This machine at this moment."""
        return Writer(self.machine, self.host, self.timestamp())

    def timestamp(self) -> str:
        """Now, RFC 3339, UTC, to the second."""
        return rfc3339(self.now())

    def new_id(self) -> str:
        """128 random bits in hexadecimal."""
        return self.random_bytes(16).hex()

    def new_session(self, fence: int) -> str:
        """A session that no push had before, begun at the head's ``fence``."""
        return fmt.new_session(fence, self.random_bytes(16))

    def commit(self, session: str, message: str, stored_bytes: int = 0) -> Commit:
        """What this machine adds to a head that it publishes now, under a new snapshot id.

        Args:
            session: where the objects of the publish are.
            stored_bytes: how many bytes of packs it sent.
        """
        return Commit(
            snapshot=self.new_id(),
            session=session,
            time=self.timestamp(),
            machine=self.machine,
            host=self.host,
            message=message,
            writer=self.version,
            stored_bytes=stored_bytes,
        )

    def jitter(self, ceiling: float) -> float:
        """A uniformly random number of seconds below ``ceiling`` (full jitter)."""
        return ceiling * int.from_bytes(self.random_bytes(4), "big") / 2**32
