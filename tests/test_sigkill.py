"""The real command killed with SIGKILL at random moments, on a folder and on an S3 server (P1, P5, P7, P8).

One machine is killed over and over while it pushes, pulls, takes back pulls and collects; another works on
files of its own. No two ever change the same file, so that every conflict is one that nobody made. What each
path ever held is written down here, and nothing else is believed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path as FsPath

import boto3.session
import pytest
from blake3 import blake3
from botocore.config import Config

from tests.closure import Bucket, Fetch, folder_fetch, read_bucket
from tests.conftest import Soak
from tests.crash_points import failure_of, in_parallel, leftovers, trash, tree
from tests.servers import BUCKET, S3Server

CONFIG = """\
bucket = "{bucket}"
endpoint_url = "{endpoint}"
root = "experiments"
[ownership]
git_tracked = false
"""
PUSH = ("push", "--full", "--max-delete", "100%")
PULL = ("pull", "--full", "--max-delete", "100%")
UNDO = ("undo",)
GC = ("gc", "--apply", "--keep-last", "2", "--min-age", "0s")
DONE = {PUSH: {0}, PULL: {0}, UNDO: {0, 1, 6}, GC: {0}}
"""How each may end when nobody kills it. There may be nothing to undo, or the files have changed since."""


@dataclass
class Worker:
    """One machine as a folder, and the real command on it."""

    folder: FsPath
    env: dict[str, str]

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "manifest_sync", *argv],
            cwd=self.folder,
            env={**os.environ, **self.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *argv: str) -> float:
        """Run to the end; the seconds it took."""
        started = time.monotonic()
        process = self.start(*argv)
        err = process.communicate()[1]
        assert process.returncode in DONE.get(argv, {0}), f"{argv} ended with {process.returncode}: {err}"
        assert "Traceback" not in err, err
        return time.monotonic() - started


@dataclass
class Campaign:
    """Two machines on one bucket, and all that is known of them."""

    folder: FsPath
    bucket: str
    endpoint: str
    env: dict[str, str]
    fetch: Fetch
    dice: random.Random
    written: dict[str, set[bytes]] = field(default_factory=dict)
    """Every content that a path ever had."""
    seconds: dict[tuple[str, ...], float] = field(default_factory=dict)
    """How long an undisturbed run of each command took last."""
    kills: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        self.gpu, self.laptop = (self._machine(name) for name in ("gpu", "laptop"))

    def _machine(self, name: str) -> Worker:
        folder = self.folder / name
        (folder / "experiments").mkdir(parents=True)
        config = CONFIG.format(bucket=self.bucket, endpoint=self.endpoint)
        (folder / "manifest-sync.toml").write_text(config)
        worker = Worker(folder, self.env)
        worker.run("init", self.bucket)
        return worker

    def edit(self, worker: Worker, changes: int) -> None:
        """Write new files and over old ones, with the same size too; delete some; only in its own folder."""
        root = worker.folder / "experiments" / worker.folder.name
        for _ in range(changes):
            path = f"{worker.folder.name}/{self.dice.randrange(3)}/{self.dice.randrange(12)}.bin"
            target = root.parent / path
            if target.exists() and self.dice.random() < 0.25:
                target.unlink()
                continue
            size = self.dice.choice((0, 10, 10, 1_000, 50_000, 50_000, 1_500_000))
            content = self.dice.randbytes(size)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            self.written.setdefault(path, set()).add(content)

    def kill(self, argv: tuple[str, ...]) -> None:
        """Kill a run at a moment drawn from its usual length, the start of the interpreter left out."""
        usual = self.seconds[argv]
        process = self.gpu.start(*argv)
        time.sleep(self.dice.uniform(0.3, 1.0) * usual)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.kills += 1
        self.hits += process.returncode == -signal.SIGKILL
        assert process.returncode in {-signal.SIGKILL, *DONE[argv]}

    def check(self, before: dict[str, bytes], head: Bucket) -> Bucket:
        """What must hold at any instant: ``before`` is what was here, ``head`` what the bucket held."""
        bucket = read_bucket(self.fetch)
        assert head.snapshot in bucket.chain, "the old head is no ancestor of the new one"
        here = contents(self.gpu)
        for path, content in here.items():
            assert content in self.written[path], f"{path} holds {len(content)} bytes that nobody wrote"
        kept = {*here.values(), *trash(self.gpu.folder)}
        held = bucket.hashes()
        for path, content in before.items():
            is_safe = content in kept or blake3(content).hexdigest() in held
            assert is_safe, f"what {path} held is nowhere any more"
        for entry_path, entry in bucket.entries.items():
            digests = {blake3(content).hexdigest() for content in self.written[entry_path.decode()]}
            assert entry.hash in digests, f"the bucket holds for {entry_path!r} what nobody wrote"
        return bucket

    def run(self, kills: int) -> None:
        self.edit(self.gpu, 20)
        self.edit(self.laptop, 20)
        self.laptop.run(*PUSH)
        for argv in (PUSH, PULL, UNDO, GC):
            self.seconds[argv] = self.gpu.run(*argv)
        head = read_bucket(self.fetch)
        while self.kills < kills:
            self.edit(self.gpu, self.dice.randrange(6))
            if self.dice.random() < 0.25:
                self.edit(self.laptop, self.dice.randrange(1, 6))
                self.laptop.run(*PUSH)
                head = read_bucket(self.fetch)
            argv = self.dice.choice((PUSH, PUSH, PUSH, PULL, PULL, PULL, UNDO, GC))
            before = contents(self.gpu)
            for _ in range(self.dice.randrange(1, 4)):
                self.kill(argv)
                head = self.check(before, head)
            if self.dice.random() < 0.25:
                self.seconds[argv] = self.gpu.run(*argv)
                head = self.check(before, head)
            if self.dice.random() < 0.1:
                self.laptop.run(*PULL)
                wanted = {path.decode(): entry.hash for path, entry in head.entries.items()}
                assert {p: blake3(c).hexdigest() for p, c in contents(self.laptop).items()} == wanted
        self.finish()

    def finish(self) -> None:
        """Without any repair both machines come to the same tree, and then nothing is left to do."""
        mine = {path: content for path, content in contents(self.gpu).items() if path.startswith("gpu/")}
        # Something to bring: the next run that changes the tree clears what the killed ones staged.
        last = self.dice.randbytes(10)
        (self.laptop.folder / "experiments/laptop").mkdir(exist_ok=True)
        (self.laptop.folder / "experiments/laptop/last.bin").write_bytes(last)
        self.written["laptop/last.bin"] = {last}
        for _ in range(2):
            for worker in (self.gpu, self.laptop):
                worker.run(*PUSH)
                worker.run(*PULL)
        bucket = read_bucket(self.fetch)
        for worker in (self.gpu, self.laptop):
            worker.run(*PUSH)
            worker.run(*PULL)
            worker.run("status", "--exit-code")
            assert leftovers(worker.folder) == []
            with closing(sqlite3.connect(worker.folder / ".manifest-sync/index.sqlite")) as index:
                assert index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert read_bucket(self.fetch).snapshot == bucket.snapshot, "a run with nothing to do published"
        here = contents(self.gpu)
        assert here == contents(self.laptop)
        assert {path.encode(): blake3(content).hexdigest() for path, content in here.items()} == {
            path: entry.hash for path, entry in bucket.entries.items()
        }
        assert {path: content for path, content in here.items() if path.startswith("gpu/")} == mine


def contents(worker: Worker) -> dict[str, bytes]:
    return {path: node[1] for path, node in tree(worker.folder).items() if node[0] == "file"}


class S3Objects:
    """Reads a bucket past the code under test; an object that is listed as it was is not fetched again."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        env = server.environment()
        session = boto3.session.Session(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], region_name=env["AWS_DEFAULT_REGION"]
        )
        config = Config(s3={"addressing_style": "path"})
        self._client = session.client("s3", endpoint_url=server.endpoint_url, config=config)
        self._prefix = prefix
        self._listed: dict[str, str] = {}
        self._bodies: dict[tuple[str, str], bytes] = {}

    def fetch(self, key: str) -> bytes:
        if key == "manifest.json":
            # Read first: whatever it refers to must be in a listing made after it.
            body = self._get(key)
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self._prefix)
            found = [item for page in pages for item in page.get("Contents", [])]
            self._listed = {item["Key"]: item["ETag"] for item in found}
            return body
        full = f"{self._prefix}/{key}"
        assert full in self._listed, f"{key} is gone"
        at = (key, self._listed[full])
        if at not in self._bodies:
            self._bodies[at] = self._get(key)
        return self._bodies[at]

    def _get(self, key: str) -> bytes:
        return self._client.get_object(Bucket=BUCKET, Key=f"{self._prefix}/{key}")["Body"].read()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_killed_at_random_moments(seaweed_http: S3Server, tmp_path: FsPath, soak: Soak) -> None:
    """50 kills on each kind of bucket (150 in the long half), side by side."""
    kills = soak.count(50, 150)
    prefix = f"sigkill-{soak.seed}"

    def campaign(kind: str) -> str:
        folder = tmp_path / kind
        env = {"HOME": str(folder)}
        if kind == "folder":
            bucket, endpoint = str(folder / "bucket"), ""
            fetch = folder_fetch(folder / "bucket")
        else:
            bucket, endpoint = f"s3://{BUCKET}/{prefix}", seaweed_http.endpoint_url
            fetch = S3Objects(seaweed_http, prefix).fetch
            env |= seaweed_http.environment()
        made = Campaign(folder, bucket, endpoint, env, fetch, soak.dice(kind))
        try:
            made.run(kills)
            assert made.hits > made.kills / 2, f"only {made.hits} of {made.kills} kills hit a living process"
        except AssertionError as error:
            return f"{kind}, after {made.kills} kills:\n{failure_of(error)}"
        shutil.rmtree(folder)
        return ""

    failures = in_parallel(["folder", "s3"], campaign)
    assert failures == [], "\n".join(failures)
