"""Two or more machines on one bucket, as folders: what the end-to-end tests are written with."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path as FsPath
from typing import Any

from manifest_sync.project import Project
from manifest_sync.report import RunReport, StatusReport
from manifest_sync.stores.base import Store

GIT_FREE_CONFIG = """\
bucket = "{bucket}"
root = "experiments"
{endpoint}
[ownership]
git_tracked = false
rules = ["git *.py", "git *.md", "git config.json", "neither **/activations/"]
[groups]
loras = ["**/lora/"]
[defaults]
{defaults}
"""


def copy_machines(source: FsPath, target: FsPath) -> None:
    """The same folder or folders again, which stand for those they are copied from, in the eyes of their
    indexes as well: what was deleted there before the copy was deleted here."""
    shutil.copytree(source, target, symlinks=True)
    for index in target.glob("**/.manifest-sync/index.sqlite"):
        root = index.parent.parent / "experiments"
        connection = sqlite3.connect(index)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'root'", (str(root.stat().st_ino),))
        connection.commit()
        connection.close()


class Machine:
    """One folder with a project; ``root`` is its tree."""

    def __init__(
        self,
        folder: FsPath,
        bucket: str,
        *,
        defaults: str = "",
        endpoint_url: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.bucket = bucket
        self.env = env or {}
        self.root = folder / "experiments"
        self.store: Store | None = None
        folder.mkdir(parents=True)
        endpoint = f'endpoint_url = "{endpoint_url}"' if endpoint_url else ""
        (folder / "manifest-sync.toml").write_text(
            GIT_FREE_CONFIG.format(bucket=bucket, defaults=defaults, endpoint=endpoint)
        )
        Project.init(str(folder), bucket, env=self.env)

    def outwait(self) -> None:
        """Until the filesystem's clock has moved on: what was written before is then not read again for being
        as young as its hash (the racy rule)."""
        probe = self.folder / ".manifest-sync" / "clock"
        probe.write_bytes(b"")
        begun = probe.stat().st_mtime_ns
        while probe.stat().st_mtime_ns == begun:
            time.sleep(0.001)
            probe.write_bytes(b".")
        probe.unlink()

    def project(self) -> Project:
        """A fresh run's project."""
        return Project.find(str(self.folder), env=self.env, store=self.store)

    def push(self, mode: str = "new", **options: Any) -> RunReport:
        return self.project().push(mode, **options)

    def pull(self, mode: str = "new", **options: Any) -> RunReport:
        return self.project().pull(mode, **options)

    def status(self, **options: Any) -> StatusReport:
        return self.project().status(**options)

    def write(self, path: str, content: str | bytes, mtime_ns: int | None = None) -> FsPath:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        if mtime_ns is not None:
            os.utime(target, ns=(mtime_ns, mtime_ns))
        return target

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def tree(self) -> dict[str, tuple[bytes, int, int]]:
        """Every file: content, mtime in nanoseconds, permission bits."""
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                stat = os.stat(path)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, self.root)] = (
                        file.read(),
                        stat.st_mtime_ns,
                        stat.st_mode & 0o777,
                    )
        return found

    def command(self, *args: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """The real command, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "manifest_sync", *args],
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=check,
        )
