"""`manifest-sync.toml`: find it, read it strictly, and write the first one."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from manifest_sync.errors import UsageError
from manifest_sync.location import (
    Environment,
    Location,
    check_endpoint,
    load_environment,
    parse_dotenv,
    parse_location,
)
from manifest_sync.model import STATE_FOLDER
from manifest_sync.patterns import check_pattern, split_rule
from manifest_sync.times import parse_age

__all__ = [
    "CONFIG_NAME",
    "PROPOSED_RULES",
    "Config",
    "Environment",
    "Location",
    "find_project",
    "load_config",
    "load_environment",
    "parse_config",
    "parse_dotenv",
    "parse_location",
    "render_config",
]

CONFIG_NAME = "manifest-sync.toml"
PROPOSED_RULES = (
    *(f"git      {name}" for name in ("*.py", "*.md", "*.txt", "*.log", "config.json")),
    *(f"neither  {name}" for name in ("**/activations/", "**/inference/raw/")),
)

MODES = ("new", "copy", "full")
DEFAULT_ROOT = "experiments"
SYMLINKS = ("skip", "follow", "keep")
TRASH_AGE, TRASH_BYTES = timedelta(days=30), 10 << 30

_TOP = ("bucket", "endpoint_url", "region", "root", "ownership", "groups", "defaults", "trash")
_TRASH = ("max_age", "max_size")
_OWNERSHIP = ("git_tracked", "rules")
_DEFAULTS = ("push", "pull", "symlinks", "trust_ctime", "trust_inode")
_SECRET_WORDS = ("key", "secret", "token", "password")


@dataclass(frozen=True, slots=True)
class Config:
    """What ``manifest-sync.toml`` says, checked.

    ``bucket`` is kept as written (see `parse_location`); ``root`` is relative to ``project_dir``.
    ``rules`` are lines of ``OWNER PATTERN``; ``groups`` maps a name to its patterns.
    """

    project_dir: str
    bucket: str
    endpoint_url: str = ""
    region: str = ""
    root: str = DEFAULT_ROOT
    git_tracked: bool = True
    rules: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    push: str = "new"
    pull: str = "new"
    symlinks: str = "skip"
    trust_ctime: bool = True
    trust_inode: bool = True
    trash_age: timedelta = TRASH_AGE
    trash_bytes: int = TRASH_BYTES

    @property
    def all_rules(self) -> tuple[str, ...]:
        """``rules``, and last what no configuration can take back: the ``.env`` beside it holds secrets."""
        return (*self.rules, "neither /.env") if self.root == "." else self.rules


def find_project(start: str) -> str:
    """The nearest folder at or above ``start`` that holds ``manifest-sync.toml``, absolute.

    Raises:
        UsageError: there is none.
    """
    start = os.path.abspath(start)
    folder = start
    while not os.path.isfile(os.path.join(folder, CONFIG_NAME)):
        parent = os.path.dirname(folder)
        if parent == folder:
            raise UsageError(
                f"there is no {CONFIG_NAME} in {start} or above",
                "go into the project's folder, or make one with `manifest-sync init BUCKET`",
            )
        folder = parent
    return folder


def load_config(project_dir: str) -> Config:
    """Read ``manifest-sync.toml`` in ``project_dir``.

    Raises:
        UsageError: it is missing, unreadable, no TOML, or says something that is not allowed; the message
            names the file, the key, what was found and what is allowed.
    """
    path = os.path.join(project_dir, CONFIG_NAME)
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", "make one with `manifest-sync init BUCKET`") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "make it readable") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: str) -> Config:
    """Check the text of a configuration file.

    Args:
        text: TOML.
        path: where it was read; its folder becomes ``project_dir``.

    Raises:
        UsageError: see `load_config`.
    """
    try:
        top = _Table(path, "", tomllib.loads(text), _TOP)
    except (ValueError, RecursionError) as error:
        # Not only the library's own error: a number of thousands of digits is another.
        raise UsageError(f"{path} is not valid TOML: {error}", "correct it there") from None
    ownership = top.table("ownership", _OWNERSHIP)
    defaults = top.table("defaults", _DEFAULTS)
    trash = top.table("trash", _TRASH)
    return Config(
        project_dir=os.path.abspath(os.path.dirname(path)),
        bucket=_bucket(top),
        endpoint_url=_endpoint(top),
        region=top.text("region"),
        root=_root(top),
        git_tracked=ownership.flag("git_tracked", True),
        rules=_rules(ownership),
        groups=_groups(top.table("groups", None)),
        push=defaults.choice("push", MODES),
        pull=defaults.choice("pull", MODES),
        symlinks=defaults.choice("symlinks", SYMLINKS),
        trust_ctime=defaults.flag("trust_ctime", True),
        trust_inode=defaults.flag("trust_inode", True),
        trash_age=trash.age("max_age", TRASH_AGE),
        trash_bytes=trash.size("max_size", TRASH_BYTES),
    )


class _Table:
    """One table of the file, read key by key with messages that name the key."""

    def __init__(
        self, path: str, name: str, values: dict[str, object], known: Collection[str] | None
    ) -> None:
        self.path = path
        self.name = name
        self.values = values
        for key in values:
            if known is not None and key not in known:
                raise self._unknown(key, known)

    def _unknown(self, key: str, known: Collection[str]) -> UsageError:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if any(word in key.lower() for word in _SECRET_WORDS):
            hint = "credentials do not belong into this file: use the environment, `.env` or rclone.conf. "
        return UsageError(
            f"{self.path}: there is no key {self.full(key)!r}", f"{hint}Known here: {', '.join(known)}"
        )

    def full(self, key: str) -> str:
        """The key with its table, as a message names it."""
        return f"{self.name}.{key}" if self.name else key

    def wrong(self, key: str, found: object, allowed: str) -> UsageError:
        """An error that names file, key, what was found and what is allowed."""
        return UsageError(f"{self.path}: {self.full(key)} is {_shown(found)}", f"allowed: {allowed}")

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, value, "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of some words; the first is the default."""
        value = self.values.get(key, allowed[0])
        if value not in allowed:
            raise self.wrong(key, value, ", ".join(f'"{word}"' for word in allowed))
        return str(value)

    def age(self, key: str, default: timedelta) -> timedelta:
        """A length of time."""
        if key not in self.values:
            return default
        text = self.text(key)
        try:
            return parse_age(text)
        except UsageError as error:
            raise self.wrong(key, text, f"an age; {error.hint}") from None

    def size(self, key: str, default: int) -> int:
        """A number of bytes."""
        if key not in self.values:
            return default
        text = self.text(key)
        try:
            return parse_size(text)
        except UsageError as error:
            raise self.wrong(key, text, f"a size; {error.hint}") from None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list of strings")
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise self.wrong(f"{key}[{number}]", item, "a string")
        return tuple(value)

    def table(self, key: str, known: Collection[str] | None) -> _Table:
        """A table inside this one; empty when it is not there."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, f"a table: [{key}]")
        return _Table(self.path, key, value, known)


def _bucket(top: _Table) -> str:
    if "bucket" not in top.values:
        raise UsageError(
            f"{top.path}: bucket is missing", 'for example: bucket = "s3://my-bucket/experiments"'
        )
    bucket = top.text("bucket")
    if not bucket.strip():
        raise top.wrong(
            "bucket", bucket, "s3://bucket/prefix, file:///folder, a folder, or REMOTE:bucket/prefix"
        )
    return bucket


def _endpoint(top: _Table) -> str:
    endpoint = top.text("endpoint_url")
    if endpoint:
        try:
            return check_endpoint(endpoint)
        except UsageError as error:
            raise UsageError(f"{top.path}: endpoint_url: {error.message}", error.hint) from None
    return ""


def _root(top: _Table) -> str:
    root = top.text("root", DEFAULT_ROOT)
    parts = root.split("/")
    if not root or root.startswith(("/", "~")) or ".." in parts or STATE_FOLDER in parts or ".git" in parts:
        raise top.wrong(
            "root", root, 'a folder inside the project, relative to this file, such as "experiments"'
        )
    return os.path.normpath(root)


def _rules(ownership: _Table) -> tuple[str, ...]:
    rules = ownership.texts("rules")
    for number, rule in enumerate(rules):
        key = f"rules[{number}]"
        try:
            _, pattern = split_rule(rule)
        except UsageError as error:
            raise ownership.wrong(key, rule, f"OWNER PATTERN; {error.hint}") from None
        reason = check_pattern(pattern)
        if reason:
            raise ownership.wrong(key, rule, f"OWNER PATTERN in gitignore syntax; {reason}")
    return rules


def _groups(table: _Table) -> Mapping[str, tuple[str, ...]]:
    groups = {}
    for name in table.values:
        if not name or "," in name or name.startswith("-"):
            raise table.wrong(
                name, name, "a group's name has no comma, does not begin with '-', is not empty"
            )
        groups[name] = table.texts(name)
        for number, pattern in enumerate(groups[name]):
            reason = check_pattern(pattern)
            if reason:
                raise table.wrong(f"{name}[{number}]", pattern, f"a pattern in gitignore syntax; {reason}")
    return MappingProxyType(groups)


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(?:i?b)?")
_SIZE_STEPS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str) -> int:
    """A number of bytes such as ``500MB``, ``10GiB``, ``1.5T``; the steps are powers of 1,024.

    Raises:
        UsageError: it is none.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if not found:
        raise UsageError(f"{text!r} is not a size", "write it like 500MiB, 10GiB or 0")
    return int(float(found[1]) * (1 << _SIZE_STEPS[found[2]]))


def _shown(value: object) -> str:
    """A value as the file would write it, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def render_config(
    *,
    bucket: str,
    root: str = DEFAULT_ROOT,
    endpoint_url: str = "",
    region: str = "",
    rules: tuple[str, ...] = PROPOSED_RULES,
) -> str:
    """The text of a first ``manifest-sync.toml``: the settings and rules given, commented.

    Raises:
        UsageError: what was given would not be accepted when the file is read.
    """
    optional = "".join(
        f"{key} = {_toml(value)}\n"
        for key, value in (("endpoint_url", endpoint_url), ("region", region))
        if value
    )
    lines = "".join(f"  {_toml(rule)},\n" for rule in rules)
    text = _TEMPLATE.format(bucket=_toml(bucket), optional=optional, root=_toml(root), rules=lines)
    parse_config(text, CONFIG_NAME)
    return text


def _toml(value: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_TEMPLATE = """\
# manifest-sync: what this project keeps in which bucket. Commit this file; it holds no credentials.
# Credentials: R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_ENDPOINT in the environment or in `.env`,
# else the AWS chain, or a remote of your rclone.conf (bucket = "remote:bucket/prefix").

bucket = {bucket}
{optional}root = {root}                   # the folder that is kept the same, relative to this file

[ownership]
git_tracked = true          # a file that git tracks is git's, whatever its name
# OWNER PATTERN: the owner is git, bucket or neither; patterns in gitignore syntax, relative to the root.
# The last rule that matches wins; what none matches is the bucket's. A folder that is excluded is not
# entered, so nothing below it can be taken back. `manifest-sync owners PATH` tells which rule decided.
rules = [
{rules}]

[groups]                    # left out unless asked for with --with NAME
loras = ["**/finetune/", "**/lora/"]
trajectories = ["*_trajectories.pt"]

[defaults]
push = "new"                # only new files; or "copy" (changed ones too), "full" (deletions too)
pull = "new"
symlinks = "skip"           # or "follow" (send what they point to), "keep" (send the link itself)
trust_ctime = true          # switch off on filesystems that change ctime or inode by themselves:
trust_inode = true          # every file would be read again there

[trash]                     # what a pull replaces or deletes is kept in .manifest-sync/trash
max_age = "30d"             # older content goes, if the bucket still holds it; sole copies stay
max_size = "10GiB"
"""
