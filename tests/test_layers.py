"""The architecture as a test: imports point downward only, and no module outgrows a sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "manifest_sync"
MAX_LINES = 400

LAYERS = [  # lowest first; a module may import from its own layer and those before it
    {"errors", "model", "pathrules", "report", "times", "findings", "bounded", "damage"},
    {"adopt_report"},
    {"canonical", "pack", "chunker", "pagecut", "pages", "keys", "manifest", "records", "runrecord"},
    {"pageuse", "packcheck", "wholefiles", "lostpages"},
    {"location", "config", "diff", "difference", "plan", "merge", "succession", "patterns", "retention"},
    {"etags", "externals", "adopt_source"},
    {"scope", "ownership", "configlines", "settle", "backlog"},
    {"ownfiles", "index_mark", "index_errors"},
    {"index_connection", "index_pages", "index_adopted"},
    {"stores", "index", "worktree", "gitinfo", "locking"},
    {"envfile"},
    {"selection", "exportstate", "destination"},
    {"page_reader"},
    {"outside", "adopt_judge"},
    {"repository", "packer"},
    {"snapshots", "lineage", "whole"},
    {"trace", "survey"},
    {"workspace"},
    {"statcache"},
    {"observe", "fetch", "probe", "rights", "localchunks", "packbuild", "verify_pages", "verify_packs"},
    {"verify_external", "adopt_read", "adopt_past"},
    {"decide", "upload", "mover", "landing", "races", "publishing"},
    {"trash", "undo", "drop", "tracking", "restore", "extract", "repack"},
    {"owners", "proposal", "export", "export_adopted", "export_folder", "export_store"},
    {"push", "pull", "status", "rebuild", "gc", "pins", "verify", "history", "compare", "recover"},
    {"relocate", "remake", "droplost", "repair", "watch"},
    {"adopt"},
    {"project_folder"},
    {"project_history"},
    {"initialize"},
    {"doctor_local"},
    {"doctor_store"},
    {"doctor"},
    {"project_care"},
    {"project_export"},
    {"project_start"},
    {"project"},
    {"cli", "__main__"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
FORBIDDEN = {  # third-party or standard modules, and the only places that may import them
    "sqlite3": {"index_errors", "index_connection", "index_pages", "index"},
    "sqlite_utils": {"index_connection", "index_pages", "index"},
    "boto3": {"stores"},
    "botocore": {"stores"},
    "click": {"cli", "__main__"},
    "rich": {"cli"},
    "watchfiles": {"worktree"},
}
PURE = {"model", "errors", "diff", "plan", "merge", "scope", "ownership", "canonical", "pack", "chunker"} | {
    "pagecut", "pages", "keys", "manifest", "records", "pathrules", "times", "runrecord",
    "pageuse", "retention", "damage", "packcheck", "wholefiles", "difference", "configlines", "settle",
    "backlog", "succession",
    "etags", "externals", "adopt_judge", "adopt_report",
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
    return sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__")


def unit(path: Path) -> str:
    """The module's name in ``LAYERS``: a sub-package counts as one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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
        if parts[0] == "manifest_sync" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[name], f"{name} imports {parts[1]}, which lies above it"
        allowed = FORBIDDEN.get(parts[0])
        assert allowed is None or name in allowed, f"{name} imports {parts[0]}"
        if name in PURE:
            assert parts[0] not in IMPURE_IMPORTS or name == "canonical", f"{name} is pure, not {parts[0]}"


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
