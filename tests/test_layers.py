"""The architecture as a test: imports point downward only, and no module outgrows a sitting."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "manifest_sync"
MAX_LINES = 400

LAYERS = [  # lowest first; a module may import from its own layer and those before it
    {"errors", "model", "pathrules", "report", "times", "doctor.findings", "bounded", "verify.damage"},
    {"adopt.report"},
    {"canonical", "pack", "chunker", "pagecut", "pages", "keys", "manifest", "index.records", "runrecord"},
    {"pageuse", "verify.packcheck", "verify.wholefiles", "lostpages"},
    {"location", "config", "diff", "difference", "plan", "merge", "succession", "patterns", "gc.retention"},
    {"etags", "externals", "adopt.source"},
    {"scope", "ownership", "configlines", "settle", "backlog"},
    {"ownfiles", "index.mark", "index.errors"},
    {"index.connection", "index.pages", "index.adopted"},
    {"stores", "index.index", "worktree", "gitinfo", "locking"},
    {"envfile"},
    {"selection", "export.state", "export.destination"},
    {"page_reader"},
    {"outside", "adopt.judge"},
    {"repository", "packer"},
    {"snapshots", "recover.lineage", "recover.whole"},
    {"gc.trace", "verify.survey"},
    {"workspace"},
    {"rootcheck"},
    {"statcache"},
    {"observe", "fetch", "probe", "rights"},
    {"repair.localchunks", "repair.packbuild", "verify.pages", "verify.packs"},
    {"verify.external", "adopt.read", "adopt.past"},
    {"decide", "upload", "mover", "landing", "races", "publishing"},
    {"trash", "undo", "drop", "tracking", "restore", "extract", "gc.repack"},
    {"owners", "proposal", "export.export", "export.adopted", "export.folder", "export.store"},
    {"push", "pull", "status", "rebuild", "pins", "history", "compare"},
    {"gc.gc", "verify.verify", "recover.recover"},
    {"repair.relocate", "repair.remake", "repair.droplost", "repair.repair", "watch"},
    {"adopt.adopt"},
    {"project_folder"},
    {"project_history"},
    {"initialize"},
    {"doctor.local"},
    {"doctor.store"},
    {"doctor.doctor"},
    {"project_care"},
    {"project_export"},
    {"project_start"},
    {"project"},
    {"cli", "__main__"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
FORBIDDEN = {  # third-party or standard modules, and the only places that may import them
    "sqlite3": {"index.errors", "index.connection", "index.pages", "index.index"},
    "sqlite_utils": {"index.connection", "index.pages", "index.index"},
    "boto3": {"stores"},
    "botocore": {"stores"},
    "click": {"cli", "__main__"},
    "rich": {"cli"},
    "watchfiles": {"worktree"},
}
PURE = {"model", "errors", "diff", "plan", "merge", "scope", "ownership", "canonical", "pack", "chunker"} | {
    "pagecut", "pages", "keys", "manifest", "index.records", "pathrules", "times", "runrecord",
    "pageuse", "gc.retention", "verify.damage", "verify.packcheck", "verify.wholefiles", "difference",
    "configlines", "settle", "backlog", "succession",
    "etags", "externals", "adopt.judge", "adopt.report",
}  # fmt: skip
IMPURE_IMPORTS = {
    "subprocess",
    "socket",
    "time",
    "random",
    "secrets",
    "io",
    "tempfile",
    "shutil",
    "threading",
}


def modules() -> list[Path]:
    found = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
    return [p for p in found if p.stem != "__init__" or imports(p)]


def unit(path: Path) -> str:
    """The module's name in ``LAYERS``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return named(parts[:-1] if parts[-1] == "__init__" else parts)


def named(parts: Sequence[str]) -> str:
    """The name in ``LAYERS`` of what is called so below the package, the longest that there is."""
    return next((name for end in (2, 1) if (name := ".".join(parts[:end])) in RANK), parts[0])


def imports(path: Path, *, also_typing: bool = True) -> set[str]:
    """The full names of what a file imports; without ``also_typing`` only what it does when it runs."""
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    if not also_typing:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    name = unit(path)
    assert name in RANK, f"{name} has no layer: add it to the table"
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] == "manifest_sync" and (other := named(parts[1:])) in RANK:
            assert RANK[other] <= RANK[name], f"{name} imports {other}, which lies above it"
        allowed = FORBIDDEN.get(parts[0])
        assert allowed is None or name in allowed, f"{name} imports {parts[0]}"
        if name in PURE:
            assert parts[0] not in IMPURE_IMPORTS or name == "canonical", f"{name} is pure, not {parts[0]}"


def dotted(path: Path) -> str:
    return ".".join(("manifest_sync", *path.relative_to(PACKAGE).with_suffix("").parts))


def test_no_modules_import_in_a_circle() -> None:
    """Those of one layer neither, and also where an import waits until it is needed."""
    files = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    needed: dict[str, set[str]] = {}
    for name, path in files.items():
        found = imports(path, also_typing=False)
        needed[name] = {part for full in found for part in (full, full.rpartition(".")[0]) if part in files}
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


def test_only_the_command_line_and_the_project_read_the_environment() -> None:
    for path in modules():
        if unit(path) not in {
            "cli",
            "project_folder",
            "project_care",
            "project_start",
            "project",
            "__main__",
            "gitinfo",
        }:  # gitinfo hands it to git
            text = path.read_text("utf-8")
            assert "os.environ" not in text, path
            assert "os.getenv" not in text, path
