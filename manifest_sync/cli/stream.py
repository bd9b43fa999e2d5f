"""Output of any length: written as it comes, never held in memory as a whole."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Self

from manifest_sync.cli.options import Settings
from manifest_sync.cli.stdio import write_bytes
from manifest_sync.errors import ManifestSyncError
from manifest_sync.model import Path, display

_BATCH = 500
_IN_MEMORY = 1 << 20


def write_batches(pieces: Iterable[bytes]) -> None:
    """Pieces on stdout, some hundred with one write; those before an error come out too."""
    batch: list[bytes] = []
    try:
        for piece in pieces:
            batch.append(piece)
            if len(batch) >= _BATCH:
                write_bytes(b"".join(batch))
                batch.clear()
    except ManifestSyncError:
        write_bytes(b"".join(batch))
        raise
    write_bytes(b"".join(batch))


def shown_path(path: Path) -> bytes:
    """A path at the end of a line of stdout.

    Into a pipe go names as they are, for ``--files-from``; a terminal gets them made printable.
    """
    return display(path).encode("utf-8", "backslashreplace") if sys.stdout.isatty() else path


class Spool:
    """Bytes that are kept, in a file if there are many, until they may be printed."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  closed by `close`

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return self._file.tell() == 0

    def add(self, piece: bytes) -> None:
        """Append."""
        self._file.write(piece)

    def write(self) -> None:
        """Print everything; nothing can be added afterwards."""
        self._file.seek(0)
        while piece := self._file.read(_IN_MEMORY):
            write_bytes(piece)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonLists:
    """One JSON object with lists of any length, kept until all of it is known to be good.

    So that an error on the way is still reported as the one object, and not behind half of one.
    """

    def __init__(self, *names: str) -> None:
        self._lists = {name: Spool() for name in names}

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        """Append to one of the lists."""
        spool = self._lists[name]
        spool.add((b"" if spool.is_empty else b", ") + json.dumps(value).encode("ascii"))

    def write(self, settings: Settings, fields: Mapping[str, Any]) -> None:
        """Print the object: ``fields``, then the lists."""
        settings.json_begun = True
        write_bytes(json.dumps(fields)[:-1].encode("ascii"))
        for name, spool in self._lists.items():
            write_bytes(f', "{name}": ['.encode("ascii"))
            spool.write()
            write_bytes(b"]")
        write_bytes(b"}\n")

    def close(self) -> None:
        """Let the files go."""
        for spool in self._lists.values():
            spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
