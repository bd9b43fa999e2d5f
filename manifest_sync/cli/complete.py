"""Completion in the shell: what click cannot know, from the local index alone. Nothing here asks the network.

Whatever goes wrong completes to nothing: a shell is no place for an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from manifest_sync.project import Project

MOST = 500
COMPLETE_VAR = "_MANIFEST_SYNC_COMPLETE"
PROGRAM = "manifest-sync"
SHELLS = ("bash", "zsh", "fish")

# A name is quoted as a file's, and after a folder the word goes on: click's scripts do neither.
_BASH = (
    "    return 0\n}\n",
    "    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[*]} == *[\\ /]* ]]; then compopt -o filenames; fi\n"
    "    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi\n"
    "    return 0\n}\n",
)
_ZSH = (
    "compadd -U -V unsorted -a completions",
    "compadd -U -V unsorted -S '' -- ${(M)completions:#*/}\n"
    "        compadd -U -V unsorted -- ${completions:#*/}",
)
_FISH = ('string split "," ', 'string split -m 1 "," ')
"""Only the kind of an item stands before a comma: what follows may hold some itself."""
_CHANGES = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str, main: click.Command) -> str:
    """What the shell has to evaluate."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    found = get_completion_class(shell)
    assert found is not None
    completer = found(main, {}, PROGRAM, COMPLETE_VAR)
    text = completer.source_template % completer.source_vars()
    old, new = _CHANGES.get(shell, ("", ""))
    return text.replace(old, new, 1) if old else text


def paths(incomplete: str) -> list[CompletionItem[str]]:
    """Files and folders below the root, one level at a time; a folder ends in ``/``."""
    return _items(_paths, incomplete)


def path_lists(incomplete: str) -> list[CompletionItem[str]]:
    """Paths where several may stand with commas between: the last of them."""
    before, comma, last = incomplete.rpartition(",")
    found = _items(_paths, last)
    return [CompletionItem(before + comma + item.value, help=item.help) for item in found]


def groups(incomplete: str) -> list[CompletionItem[str]]:
    """Groups of the configuration."""
    before, comma, last = incomplete.rpartition(",")
    found = _items(lambda project, _: ((name, "") for name in project.config.groups), last)
    return [CompletionItem(before + comma + item.value) for item in found]


def snapshots(incomplete: str) -> list[CompletionItem[str]]:
    """Names of pins, and the sequence numbers of the newest snapshots."""
    return _items(lambda project, _: iter(project.known_snapshots()), incomplete)


def folders(incomplete: str) -> list[CompletionItem[str]]:
    """Folders of this machine: the shell completes them itself."""
    return [CompletionItem(incomplete, type="dir")]


def _paths(project: Project, incomplete: str) -> Iterator[tuple[str, str]]:
    # Typed from the project's folder the root's own name stands in front, as everywhere.
    root = project.config.root + "/"
    front = root if incomplete.startswith(root) else ""
    for path in project.known_paths(incomplete.removeprefix(front), MOST):
        yield front + path, ""


def _items(find: Any, incomplete: str) -> list[CompletionItem[str]]:
    from manifest_sync.project import Project  # noqa: PLC0415

    try:
        with Project.find(env=os.environ) as project:
            return [
                CompletionItem(value, help=text or None)
                for value, text in find(project, incomplete)
                # A line of the answer is an item: nothing else can pass.
                if value.startswith(incomplete) and value.isprintable()
            ]
    except Exception:  # noqa: BLE001  see above
        return []
