"""The program's own small text files: the configuration that `init` writes, the machine's id."""

from __future__ import annotations

import contextlib
import os


def write_whole(path: str, text: str) -> None:
    """Write a file that is never seen half: under a name beside it first, synced, then renamed.

    What a kill leaves under that other name (``PATH.new``) is written over by the next run.

    Raises:
        OSError: with the path; nothing was changed.
    """
    temporary = f"{path}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from error
