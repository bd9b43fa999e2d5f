"""A mark beside the index: the token that the index used here last was given.

An index that was put back from an old copy, or that comes from another folder, is a valid file that remembers
another past: by its base an old file would look like an edit, and what `drop` took away like a deletion. So
every run that writes gives the index a new random token, in the transaction of its first write, and the mark
says which: an index with another token is refused. The mark names the new token beside the old one before
that transaction is committed, and alone when it is, so that a kill at any moment leaves a mark that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from manifest_sync.ownfiles import write_whole

_MOST = 4096


class IndexMark:
    """The mark of one index; whoever uses it holds the lock of the local state.

    Args:
        path: of the mark.
        random_bytes: where tokens come from.
    """

    def __init__(self, path: str, random_bytes: Callable[[int], bytes]) -> None:
        self.path = path
        self._random_bytes = random_bytes
        self._announced = ""

    def tokens(self) -> tuple[str, ...]:
        """The tokens that the index may have; none where there is no mark, or none that can be read."""
        try:
            with open(self.path, encoding="ascii") as file:
                return tuple(file.read(_MOST).split())
        except (OSError, ValueError):
            return ()

    def announce(self, present: Iterable[str]) -> str:
        """A new token, written down beside those that are right until it is committed.

        Raises:
            OSError: the mark cannot be written; the old one stands.
        """
        token = self._random_bytes(16).hex()
        write_whole(self.path, " ".join([*present, token]) + "\n")
        self._announced = token
        return token

    def settle(self, token: str = "") -> None:
        """The index has this token now (default: the announced one), and no other one is right any more.

        A mark that cannot be written stays as it is: it names this token too, and the next run tries again.
        """
        token, self._announced = token or self._announced, ""
        if token:
            with suppress(OSError):
                write_whole(self.path, f"{token}\n")
