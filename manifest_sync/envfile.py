"""Keeping a key in the ``.env`` beside the configuration: for its owner only, and out of git."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from manifest_sync.errors import UsageError
from manifest_sync.gitinfo import is_ignored, is_tracked
from manifest_sync.ownfiles import write_whole

ENV_NAME = ".env"
_PLAIN = re.compile(r"[A-Za-z0-9_./:+=@%-]*")


def hindrance(folder: str) -> str:
    """Why no key may be written to the ``.env`` in ``folder``; '' when one may."""
    path = os.path.join(folder, ENV_NAME)
    if is_tracked(folder, ENV_NAME):
        return "git tracks .env, and would publish the key"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written to"
    if not stat.S_ISREG(found.st_mode):
        return ".env is not an ordinary file"
    return "" if os.access(path, os.R_OK | os.W_OK) else ".env cannot be read or written"


def check_keepable(folder: str) -> None:
    """Raise an error where no key may be written.

    Raises:
        UsageError: see `hindrance`.
    """
    reason = hindrance(folder)
    if reason:
        raise UsageError(reason, "put the key into the environment")


def save_variables(folder: str, values: Mapping[str, str]) -> list[str]:
    """Write variables into the ``.env`` in ``folder``, beside what it says already.

    First git is told to ignore that file, then it is written, readable for its owner only.

    Returns:
        The names of the files that were changed.

    Raises:
        UsageError: no key may be written there; see `hindrance`.
        OSError: one of the files could not be written; it is as it was.
    """
    check_keepable(folder)
    changed = []
    if not is_ignored(folder, ENV_NAME):
        ignore = os.path.join(folder, ".gitignore")
        text = _read(ignore)
        if f"/{ENV_NAME}" not in text.splitlines():
            write_whole(ignore, _bytes(f"{_ended(text)}/{ENV_NAME}\n"))
            changed.append(".gitignore")
    path = os.path.join(folder, ENV_NAME)
    write_whole(path, _bytes(set_variables(_read(path), values)), private=True)
    return [*changed, ENV_NAME]


def set_variables(text: str, values: Mapping[str, str]) -> str:
    """The text of a ``.env`` file with these variables set; other lines stay as they are. Pure."""
    names = "|".join(map(re.escape, values))
    assignment = re.compile(rf"\s*(?:export\s+)?(?:{names})\s*=")
    kept = [line for line in text.splitlines(keepends=True) if not assignment.match(line)]
    return _ended("".join(kept)) + "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
