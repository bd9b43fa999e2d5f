"""The remembered selection: which part of the tree this machine looks at.

It is a file of its own beside the index, so that an index made anew keeps it. Losing it selects everything
again and deletes nothing: what lies outside the selection has no base (see `tracking`), so that its absence
here is no evidence of a deletion (P11, P12).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from manifest_sync.errors import Damaged, UsageError
from manifest_sync.model import Path, display, is_below, json_path
from manifest_sync.ownfiles import write_whole
from manifest_sync.pathrules import check_path
from manifest_sync.scope import Scope

_NAME = "selection"
Selection = tuple[Path, ...]
"""Files and folders, none below another, in the order of their bytes; none at all means everything."""


def read_selection(state_dir: str) -> Selection:
    """What this machine selects.

    Raises:
        Damaged: the file is not what was written. Taking it for none would fetch everything.
    """
    path = os.path.join(state_dir, _NAME)
    try:
        with open(path, encoding="utf-8") as file:
            names = json.load(file)["selected"]
        selection = tuple(Path(os.fsencode(name)) for name in names)
        if any(check_path(one) for one in selection):
            raise ValueError("a path that cannot be one")
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(
            f"{path} cannot be understood, so what this machine tracks is not known ({error})",
            "remove that file, then name what to track with `manifest-sync track PATH...`",
        ) from None
    return outermost(selection)


def write_selection(state_dir: str, selection: Selection) -> None:
    """Remember a selection; none at all removes the file."""
    path = os.path.join(state_dir, _NAME)
    if selection:
        write_whole(path, json.dumps({"selected": [json_path(one) for one in selection]}) + "\n")
    elif os.path.lexists(path):
        os.unlink(path)


def outermost(paths: Iterable[Path]) -> Selection:
    """The paths without those that lie below another one; nothing when the root is among them."""
    found: list[Path] = []
    for path in sorted(set(paths), key=lambda path: path.split(b"/")):
        if not path:
            return ()
        if not found or not is_below(path, found[-1]):
            found.append(path)
    return tuple(sorted(found))


def narrow(scope: Scope, selection: Selection) -> Scope:
    """What ``scope`` and the selection have in common.

    Raises:
        UsageError: a path of the scope has nothing in common with the selection: passing over it in silence
            would look like success.
    """
    if not selection:
        return scope
    if not scope.only:
        return Scope(selection, scope.exclude)
    only: list[Path] = []
    for path in scope.only:
        inside = common([path], selection)
        if not inside:
            raise UsageError(
                f"{display(path)} is not tracked on this machine",
                f"`manifest-sync track {display(path)}` selects it; `manifest-sync track` lists what is",
            )
        only += inside
    return Scope(tuple(only), scope.exclude)


def common(paths: Iterable[Path], selection: Selection) -> tuple[Path, ...]:
    """What ``paths`` and the selection have in common; of a path above a selected one, that one."""
    if not selection:
        return tuple(paths)
    found: list[Path] = []
    for path in paths:
        if any(is_below(path, selected) for selected in selection):
            found.append(path)
        else:
            found += [selected for selected in selection if is_below(selected, path)]
    return tuple(found)
