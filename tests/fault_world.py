"""Two machines and a bucket on a real S3 server behind the fault proxy, put back to the same state each time.

What the bucket holds is checked by `tests.bucket_check`, which knows nothing of the code under test; what it
should hold is a dictionary of file contents.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FsPath

from manifest_sync.errors import ManifestSyncError
from manifest_sync.project import Project
from manifest_sync.stores.base import NotFound, Store
from manifest_sync.stores.patience import Patience
from manifest_sync.stores.retry import Retry
from manifest_sync.stores.s3 import S3Store
from tests.bucket_check import Found, examine, head_files
from tests.bucket_check import folder as bucket_folder
from tests.fault_proxy import FaultProxy
from tests.machines import Machine, copy_machines
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

Files = dict[str, bytes]
SLOW_KINDS = {"hang", "hang-after", "trickle", "trickle-body"}
"""These end by a timeout, which is made short for them; under load a short one would strike others too."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: the exit code it would have had, and the error if there was one."""

    code: int
    error: ManifestSyncError | None = None


@dataclass
class Scene:
    """A bucket and the folders of the machines at some moment, to start from again and again."""

    objects: dict[str, bytes]
    folders: FsPath


@dataclass
class World:
    """Machines ``gpu`` and ``laptop``, their bucket, and the proxy in between.

    ``direct`` reaches the bucket without the proxy; the other stores go through it and wait for nothing.
    """

    proxy: FaultProxy
    direct: S3Store
    through: S3Store
    through_impatient: S3Store
    folder: FsPath

    def store(self, *kinds: str) -> Store:
        """The store through the proxy whose timeouts suit these kinds of faults."""
        return self.through if SLOW_KINDS.isdisjoint(kinds) else self.through_impatient

    def machine(self, name: str) -> Machine:
        """One of the machines as it stands, working directly on the bucket."""
        return machine_in(self.folder / name, "", self.direct)

    def objects(self) -> dict[str, bytes]:
        """Every object of the bucket."""
        return {item.key: self.fetch(item.key) or b"" for item in self.direct.list("")}

    def fetch(self, key: str) -> bytes | None:
        """The bytes under a key, None without such an object."""
        try:
            found = self.direct.get(key, max_bytes=1 << 26)
        except NotFound:
            return None
        return None if found is None else found.body

    def bucket(self) -> Found:
        """What the bucket holds, after a look at everything the head and its snapshots reach (P1)."""
        found = examine(self.fetch)
        assert found.problems == []
        return found

    def keep(self, where: FsPath) -> Scene:
        """Remember how everything stands."""
        shutil.copytree(self.folder, where, symlinks=True)
        return Scene(self.objects(), where)

    def restore(self, scene: Scene) -> None:
        """Make everything as it was: the bucket's objects and the machines' folders."""
        self.proxy.clear()
        there = {item.key for item in self.direct.list("")}
        for key in there - set(scene.objects):
            self.direct.delete(key)
        # Only the head is ever overwritten.
        for key in (set(scene.objects) - there) | {"manifest.json"}:
            self.direct.put(key, scene.objects[key])
        shutil.rmtree(self.folder)
        copy_machines(scene.folders, self.folder)

    def run(self, name: str, command: Callable[[Project], int], store: Store) -> Outcome:
        """Run a command of a machine; any error that is not meant for a user fails the test."""
        project = Project.find(str(self.folder / name), env={}, store=store)
        try:
            return Outcome(command(project))
        except ManifestSyncError as error:
            return Outcome(error.exit_code, error)


def make_world(server: S3Server, proxy: FaultProxy, folder: FsPath, prefix: str) -> Iterator[World]:
    """A world with an empty repository; the machines have joined it."""
    location = server.location(prefix)
    behind = replace(location, endpoint_url=proxy.url)
    retry = Retry(tries=4, sleep=lambda _: None)
    world = World(
        proxy,
        S3Store(location),
        S3Store(behind, retry=retry, read_timeout=20),
        S3Store(behind, retry=retry, read_timeout=0.3, patience=Patience(0.6)),
        folder,
    )
    # boto3 takes what begins with AWS_ from the process; this is taken from what is handed over.
    env = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}
    for name in ("gpu", "laptop"):
        Machine(folder / name, f"s3://{BUCKET}/{prefix}", endpoint_url=server.endpoint_url, env=env)
    yield world
    for store in (world.direct, world.through, world.through_impatient):
        store.close()


@dataclass
class Place:
    """Two machines and a bucket in one folder, which can be copied as it is."""

    folder: FsPath

    @property
    def bucket(self) -> FsPath:
        return self.folder / "bucket"

    def machine(self, name: str) -> Machine:
        if not (self.folder / name).exists():
            return Machine(self.folder / name, "../bucket")
        return machine_in(self.folder / name, "../bucket")

    def tree(self, name: str) -> Files:
        return files_of(self.folder / name / "experiments")

    def held(self) -> Files:
        """What the bucket's head holds, after a look at all it reaches (P1)."""
        files = head_files(bucket_folder(self.bucket))
        return {os.fsdecode(path): body for path, body in files.items()}

    def examine(self) -> Found:
        """All that the head reaches, and what is wrong with it."""
        return examine(bucket_folder(self.bucket))

    def copy(self, where: FsPath) -> Place:
        """The same again; what was there before is removed."""
        if where.exists():
            shutil.rmtree(where)
        copy_machines(self.folder, where)
        return Place(where)


def machine_in(folder: FsPath, bucket: str, store: Store | None = None) -> Machine:
    """A machine whose folder is there already."""
    made = Machine.__new__(Machine)
    made.folder, made.bucket, made.env, made.store = folder, bucket, {}, store
    made.root = folder / "experiments"
    return made


def files_of(root: FsPath) -> Files:
    """Every file below a folder: its content by its name."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = FsPath(folder, name)
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def held_by(bucket: Found) -> Files:
    """The files that the bucket's head holds: content by name."""
    return {os.fsdecode(path): body for path, body in bucket.files.items()}
