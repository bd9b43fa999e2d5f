"""`doctor`: each thing that can be wrong is found, named with its cure, and stops no other check."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.canonical import compress
from manifest_sync.doctor import local as doctor_local
from manifest_sync.doctor.doctor import diagnose
from manifest_sync.doctor.findings import Finding, Level
from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.locking import LocalLock
from manifest_sync.manifest import encode_manifest, parse_manifest
from manifest_sync.probe import condition_fault
from manifest_sync.project import Project
from manifest_sync.stores.base import Listed, Object, PreconditionFailed, Store, Unknown
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.worktree import Traits, probe_filesystem
from manifest_sync.worktree.mounts import Mount, find_mount
from tests.machines import Machine
from tests.servers import BUCKET, S3Server

Findings = dict[str, Finding]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    made.write("exp/a.json", "a")
    made.push()
    return made


def examine(machine: Machine, store: Store | None = None, **options: Any) -> Findings:
    options.setdefault("clock", time.time)
    findings = list(diagnose(str(machine.folder), env=machine.env, store=store, **options))
    return {finding.name: finding for finding in findings}


def problems(findings: Findings) -> list[str]:
    return [f"{f.level} {name}" for name, f in findings.items() if f.level in (Level.WARNING, Level.FAILURE)]


def inner_store(machine: Machine) -> DirectoryStore:
    return DirectoryStore(machine.bucket)


class Odd:
    """A store with one fault: whatever ``replaced`` names is done by that function instead."""

    def __init__(self, inner: Store, **replaced: Callable[..., Any]) -> None:
        self.inner = inner
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self.inner, name)


# ---- all is well


def test_a_sound_project_has_no_findings_and_leaves_nothing_behind(machine: Machine, tmp_path: Path) -> None:
    def files() -> list[Path]:
        return sorted(p for p in tmp_path.rglob("*") if p.is_file())

    before = files()
    findings = examine(machine)
    assert problems(findings) == []
    assert {"configuration", "credentials", "endpoint", "clock", "compare-and-swap", "reads"} <= set(findings)
    assert {"checksums", "head", "snapshot copy", "index", "lock", "names", "times"} <= set(findings)
    assert "sequence 1" in findings["head"].cause
    assert "descended from" in findings["head"].cause
    assert files() == before


def test_the_command_prints_findings_cures_and_a_verdict(machine: Machine) -> None:
    done = machine.command("doctor")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok       configuration: ")
    assert done.stdout.endswith("all is well\n")
    assert machine.command("doctor", "-q").stdout == ""
    Path(machine.bucket, "manifest.json").write_bytes(b"{")
    done = machine.command("doctor", "-q")
    assert done.returncode == 7
    assert done.stdout.startswith("failure  head: manifest.json at ")
    assert "--restore-head" in done.stdout.splitlines()[1]


def test_json_is_one_object(machine: Machine) -> None:
    done = machine.command("doctor", "--json")
    told = json.loads(done.stdout)
    assert (told["command"], told["exit_code"], done.returncode) == ("doctor", 0, 0)
    assert {"name", "level", "cause", "cure", "exit_code"} == set(told["findings"][0])


# ---- this machine


def test_no_configuration(tmp_path: Path) -> None:
    findings = list(Project.doctor(str(tmp_path), env={}))
    assert [(f.name, f.level, f.exit_code) for f in findings] == [("configuration", Level.FAILURE, 2)]
    assert "manifest-sync init" in findings[0].cure


def test_a_wrong_configuration(machine: Machine) -> None:
    (machine.folder / "manifest-sync.toml").write_text('bukket = "x"')
    done = machine.command("doctor")
    assert done.returncode == 2
    assert "bukket" in done.stdout


def test_credentials_that_are_half_there(machine: Machine) -> None:
    config = machine.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace(f'"{machine.bucket}"', '"s3://b/p"'))
    findings = list(Project.doctor(str(machine.folder), env={"R2_ACCESS_KEY_ID": "k", "HOME": "/nowhere"}))
    assert (findings[-1].name, findings[-1].exit_code) == ("credentials", 2)
    assert "R2_SECRET_ACCESS_KEY" in findings[-1].cause


def test_a_damaged_index_does_not_hide_the_rest(machine: Machine) -> None:
    index = machine.folder / ".manifest-sync/index.sqlite"
    body = bytearray(index.read_bytes())
    for page in range(2, len(body) // 4096):
        body[page * 4096 : page * 4096 + 40] = b"\xff" * 40
    index.write_bytes(body)
    findings = examine(machine)
    assert problems(findings) == ["failure index"]
    assert findings["index"].exit_code == 7
    assert "rebuild-index" in findings["index"].cure
    assert findings["head"].level is Level.OK


def test_damage_that_only_reading_it_all_shows(machine: Machine) -> None:
    index = machine.folder / ".manifest-sync/index.sqlite"
    connection = sqlite3.connect(index)
    with connection:
        connection.executemany(
            "INSERT INTO paths (path, local) VALUES (?, ?)", [(b"x/%06d" % n, b"f" * 33) for n in range(5000)]
        )
    connection.close()
    body = bytearray(index.read_bytes())
    middle = body.index(b"x/002500") // 4096 * 4096
    body[middle : middle + 8] = b"\xff" * 8
    index.write_bytes(body)
    finding = examine(machine)["index"]
    assert (finding.level, finding.exit_code) == (Level.FAILURE, 7)


def test_an_index_of_another_version(machine: Machine) -> None:
    index = machine.folder / ".manifest-sync/index.sqlite"
    body = bytearray(index.read_bytes())
    body[60:64] = (99).to_bytes(4, "big")
    index.write_bytes(body)
    assert "version 99" in examine(machine)["index"].cause


def test_the_lock_is_held(machine: Machine) -> None:
    with LocalLock(str(machine.folder / ".manifest-sync/lock")):
        findings = examine(machine)
    assert problems(findings) == ["warning lock"]
    assert str(os.getpid()) in findings["lock"].cause
    assert "a copy" in findings["index"].cause


def test_the_tree_is_not_mounted(machine: Machine) -> None:
    machine.root.rename(machine.folder / "elsewhere")
    findings = examine(machine)
    assert problems(findings) == ["failure root"]
    shutil.rmtree(machine.folder / ".manifest-sync")
    assert examine(machine)["root"].level is Level.OK


# ---- the filesystem


@pytest.fixture
def sound(tmp_path: Path) -> Traits:
    return replace(probe_filesystem(str(tmp_path)), mount=Mount("ext4", "/", "/dev/vda"))


def of_tree(found: Traits) -> list[Finding]:
    findings = doctor_local.tree_findings(found, keeps_symlinks=True, trusts_stat=True)
    return [finding for finding in findings if finding.level is not Level.OK]


@pytest.mark.parametrize(
    ("change", "name", "word"),
    [
        ({"folds_case": True}, "names", "case"),
        ({"folds_unicode": True}, "names", "NFD"),
        ({"refused_names": ("a name with a colon",)}, "names", "colon"),
        ({"mtime_step_ns": 2_000_000_000}, "times", "2 s"),
        ({"mtime_step_ns": 0}, "times", "changed"),
        ({"tick_ns": 0}, "times", "some seconds"),
        ({"ctime_moves": False}, "times", "ctime"),
        ({"replaces": False}, "replacing", "rename"),
        ({"executable_bit": False}, "replacing", "executable"),
        ({"symlinks": False}, "replacing", "symlinks"),
        ({"hard_links": False}, "replacing", "hard links"),
        ({"mount": Mount("nfs4", "/data", "server:/data")}, "mount", "nfs4"),
        ({"mount": Mount("fuse.sshfs", "/data", "host:")}, "mount", "fuse.sshfs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_trait_of_a_filesystem_has_its_warning(
    sound: Traits, change: dict[str, Any], name: str, word: str
) -> None:
    assert of_tree(sound) == []
    found = of_tree(replace(sound, **change))
    assert [finding.name for finding in found] == [name]
    assert word in found[0].cause
    assert found[0].cure


def test_the_local_state_on_a_network(sound: Traits) -> None:
    assert doctor_local.state_finding(sound).level is Level.OK
    nfs = replace(sound, mount=Mount("nfs", "/home", "server:/home"))
    assert "SQLite" in doctor_local.state_finding(nfs).cure
    assert doctor_local.state_finding(replace(sound, locks=False)).level is Level.FAILURE
    assert doctor_local.space_finding(replace(sound, free_bytes=5 << 20), "tree").level is Level.WARNING


def test_a_network_is_no_worry_once_its_stats_are_not_trusted(sound: Traits) -> None:
    nfs = replace(sound, mount=Mount("nfs", "/home", "server:/home"))
    findings = doctor_local.tree_findings(nfs, keeps_symlinks=False, trusts_stat=False)
    assert [finding.level for finding in findings] == [Level.OK] * 4


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(1, "not permitted")


def nothing(*_: Any, **__: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("module", "function", "instead", "trait", "value"),
    [
        (os, "link", refuse, "hard_links", False),
        (os, "symlink", refuse, "symlinks", False),
        (os, "rename", refuse, "replaces", False),
        (os, "chmod", nothing, "executable_bit", False),
        (fcntl, "flock", nothing, "locks", False),
        (os.path, "lexists", lambda path: True, "folds_case", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_traits_are_tried_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    instead: Any,
    trait: str,
    value: bool,
) -> None:
    assert getattr(probe_filesystem(str(tmp_path)), trait) is not value
    monkeypatch.setattr(module, function, instead)
    assert getattr(probe_filesystem(str(tmp_path)), trait) is value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [100, 1_000, 1_000_000_000, 2_000_000_000])
def test_the_step_of_mtime_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = os.utime

    def coarse(path: Any, ns: tuple[int, int] | None = None) -> None:
        if ns is None:
            real(path)
        else:
            real(path, ns=(ns[0] - ns[0] % step, ns[1] - ns[1] % step))

    monkeypatch.setattr(os, "utime", coarse)
    assert probe_filesystem(str(tmp_path)).mtime_step_ns == step


def test_a_folder_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", refuse)
    findings = examine(machine)
    assert findings["filesystem"].level is Level.FAILURE
    assert findings["filesystem"].exit_code == 12
    assert findings["head"].level is Level.OK


def test_probe_files_are_removed_when_a_probe_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(OSError, match="not permitted"):
        probe_filesystem(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


MOUNTS = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:40 / /data rw - nfs4 server:/export/data rw,vers=4.2
41 27 0:41 / /mnt/with\\040space rw master:3 - fuse.sshfs me@host:/x rw
42 27 0:42 / /over rw - ext4 /dev/vdb rw
43 27 0:43 / /over rw - cifs //nas/share rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind", "is_remote"),
    [
        (b"/home/me", "ext4", False),
        (b"/data/exp", "nfs4", True),
        (b"/data", "nfs4", True),
        (b"/database", "ext4", False),
        (b"/mnt/with space/tree", "fuse.sshfs", True),
        (b"/over/tree", "cifs", True),
    ],
)
def test_the_mount_of_a_path(path: bytes, kind: str, is_remote: bool) -> None:
    mount = find_mount(MOUNTS, path)
    assert mount is not None
    assert mount.kind == kind
    assert (mount.is_network or mount.is_fuse) is is_remote


# ---- the store


def denied(*_: Any, **__: Any) -> Any:
    raise AccessDenied("the store said no", "use another key")


def test_a_read_only_key_can_pull(machine: Machine) -> None:
    store = Odd(inner_store(machine), put=denied, put_if=denied, delete=denied)
    findings = examine(machine, store)
    assert problems(findings) == ["warning credentials"]
    assert "pull works and push does not" in findings["credentials"].cause
    assert findings["compare-and-swap"].level is Level.SKIPPED
    assert findings["head"].level is Level.OK


def test_a_key_that_may_not_list_or_delete(machine: Machine) -> None:
    findings = examine(machine, Odd(inner_store(machine), delete=denied))
    assert "may not delete" in findings["credentials"].cause
    assert "removed" in findings["probes"].cause
    findings = examine(machine, Odd(inner_store(machine), list=denied))
    assert "may not list" in findings["credentials"].cause
    assert findings["reads"].level is Level.OK


def test_a_key_that_may_nothing(machine: Machine) -> None:
    store = Odd(inner_store(machine), get=denied, list=denied, put=denied)
    findings = examine(machine, store)
    assert problems(findings) == ["failure credentials"]
    assert findings["credentials"].exit_code == 12
    assert findings["head"].level is Level.SKIPPED


def test_a_skewed_clock(machine: Machine) -> None:
    def shifted(by: float) -> Odd:
        inner = inner_store(machine)

        def listing(prefix: str) -> Iterator[Listed]:
            for item in inner.list(prefix):
                yield replace(item, modified=item.modified + by)

        return Odd(inner, list=listing)

    assert examine(machine, shifted(20))["clock"].level is Level.OK
    behind = examine(machine, shifted(7200))["clock"]
    assert behind.level is Level.WARNING
    assert "7,200 s behind" in behind.cause
    assert "7,200 s ahead of" in examine(machine, shifted(-7200))["clock"].cause
    assert "86,4" in examine(machine, clock=lambda: time.time() + 86_400)["clock"].cause


class Careless:
    """A memory store whose ``put_if`` breaks one of its promises."""

    def __init__(self, fault: str) -> None:
        self.inner = MemoryStore()
        self.fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _etag(self, key: str) -> str | None:
        found = [item.etag for item in self.inner.list(key) if item.key == key]
        return found[0] if found else None

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        current = self._etag(key)
        matches = current == etag
        if self.fault == "races to create" and etag is None:
            time.sleep(0.05)
        if self.fault == "races to replace" and etag is not None:
            time.sleep(0.05)
        if (
            matches
            or (self.fault == "ignores both")
            or (self.fault == "ignores If-Match" and etag is not None)
            or (self.fault == "ignores If-None-Match" and etag is None)
            or (self.fault == "takes the missing" and etag is not None and current is None)
            or (
                self.fault == "takes the existing"
                and etag is None
                and current is not None
                and b"of 1" in body
            )
            or (
                self.fault == "takes the stale"
                and etag is not None
                and b"of 1 " in body
                and current is not None
            )
        ):
            if self.fault == "refuses":
                raise PreconditionFailed(key)
            self.inner.put(key, body)
            written = self._etag(key)
            assert written is not None
            if self.fault == "loses the answer":
                raise Unknown(key, TimeoutError("lost"))
            return written
        raise PreconditionFailed(key)


@pytest.mark.parametrize(
    "fault",
    [
        "ignores both",
        "ignores If-Match",
        "ignores If-None-Match",
        "races to create",
        "races to replace",
        "takes the missing",
        "takes the existing",
        "takes the stale",
        "refuses",
    ],
)
def test_a_store_that_does_not_keep_its_conditions(fault: str) -> None:
    store = Careless(fault)
    found = condition_fault(store, "t", racers=8)
    assert found != ""
    if fault.startswith("races"):
        assert fault.rsplit(maxsplit=1)[-1] in found, "told as what it is, not by what follows from it"
    assert list(store.inner.list("")) == []


def test_a_store_that_keeps_its_conditions() -> None:
    assert condition_fault(MemoryStore(), "t", racers=16) == ""
    # An answer that was lost is looked for: it is no sign of a fault.
    assert condition_fault(Careless("loses the answer"), "t", racers=1) == ""


def test_a_store_that_turns_every_write_away() -> None:
    def away(*_: Any, **__: Any) -> str:
        raise StoreUnavailable("429 slow down")

    with pytest.raises(StoreUnavailable, match="nothing can be said"):
        condition_fault(Odd(MemoryStore(), put_if=away), "t", racers=2)


def test_conditions_ignored_by_the_projects_store(machine: Machine, tmp_path: Path) -> None:
    def ignoring(inner: Store) -> Odd:
        def put_if(key: str, body: bytes, *, etag: str | None) -> str:
            inner.put(key, body)
            return f"{hash(body):x}"

        return Odd(inner, put_if=put_if)

    finding = examine(machine, ignoring(inner_store(machine)))["compare-and-swap"]
    assert (finding.level, finding.exit_code) == (Level.FAILURE, 1)
    assert "ignores conditional writes" in finding.cause
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/manifest-sync.toml").write_text('bucket = "bucket"\n')
    Project.init(str(tmp_path / "alone"), "bucket", single_writer=True)
    alone = DirectoryStore(str(tmp_path / "alone/bucket"))
    found = diagnose(str(tmp_path / "alone"), env={}, clock=time.time, store=ignoring(alone))
    assert {f.name: f.level for f in found}["compare-and-swap"] is Level.WARNING


def test_stale_and_shifted_reads(machine: Machine) -> None:
    inner = inner_store(machine)
    first: dict[str, Object] = {}

    def stale(key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        found = inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        return found if found is None else first.setdefault(key, found)

    def shifted(key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        return inner.get_range(key, offset + 1, length)

    def always(key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        return inner.get(key, max_bytes=max_bytes)

    for store, word in (
        (Odd(inner, get=stale), "as it was before"),
        (Odd(inner, get_range=shifted), "other bytes"),
        (Odd(inner, get=always), "conditional read"),
        (Odd(inner, list=lambda prefix: iter(())), "listing"),
    ):
        finding = examine(machine, store)["reads"]
        assert (finding.level, finding.exit_code) == (Level.FAILURE, 5), word
        assert word in finding.cause
    assert [item.key for item in inner.list("probe/")] == []


def test_a_check_that_breaks_takes_nothing_with_it(machine: Machine) -> None:
    def broken(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("odd")

    def away(*_: Any, **__: Any) -> str:
        raise StoreUnavailable("503", "try again")

    inner = inner_store(machine)
    findings = examine(machine, Odd(inner, get_range=broken, put_if=away))
    assert problems(findings) == ["failure compare-and-swap", "failure reads"]
    assert "RuntimeError" in findings["reads"].cause
    assert findings["compare-and-swap"].exit_code == 5
    assert [item.key for item in inner.list("probe/")] == []


def test_a_store_that_hangs_is_not_waited_for(machine: Machine) -> None:
    released = threading.Event()
    inner = inner_store(machine)

    def hang(key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        if key == "manifest.json" and hang_now.is_set():
            released.wait()
        return inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)

    def listing(prefix: str) -> Iterator[Listed]:
        hang_now.set()  # from the clock's check on
        return inner.list(prefix)

    hang_now = threading.Event()
    try:
        findings = examine(machine, Odd(inner, get=hang, list=listing), quick_seconds=0.5)
    finally:
        released.set()
    assert problems(findings) == ["failure head"]
    assert findings["head"].exit_code == 5
    assert "no answer within 0.5 seconds" in findings["head"].cause
    assert findings["compare-and-swap"].level is Level.OK


def test_an_interrupted_doctor_cleans_up(machine: Machine) -> None:
    inner = inner_store(machine)
    findings = diagnose(str(machine.folder), env={}, clock=time.time, store=inner)
    for finding in findings:
        if finding.name == "clock":
            assert list(inner.list("probe/")) != []
            break
    findings.close()  # type: ignore[attr-defined]
    assert list(inner.list("probe/")) == []


def test_probes_that_killed_runs_left_are_removed(machine: Machine) -> None:
    inner = inner_store(machine)
    for name, age in (("old", 3 * 86_400), ("young", 60)):
        inner.put(f"probe/{name}", b"x")
        then = time.time() - age
        os.utime(Path(machine.bucket, "probe", name), (then, then))
    assert problems(examine(machine)) == []
    assert [item.key for item in inner.list("probe/")] == ["probe/young"]


# ---- the head


def test_a_lost_head(machine: Machine) -> None:
    Path(machine.bucket, "manifest.json").unlink()
    finding = examine(machine)["head"]
    assert finding.exit_code == 7
    assert "2 snapshots are kept, the last is sequence 1" in finding.cause
    assert "--restore-head" in finding.cure


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_head(machine: Machine, body: bytes) -> None:
    Path(machine.bucket, "manifest.json").write_bytes(body)
    findings = examine(machine)
    assert (findings["head"].level, findings["head"].exit_code) == (Level.FAILURE, 7)
    assert "--restore-head" in findings["head"].cure
    assert findings["reads"].level is Level.OK


def test_a_head_of_a_newer_version(machine: Machine) -> None:
    head = Path(machine.bucket, "manifest.json")
    head.write_text(head.read_text().replace('"features_read": []', '"features_read": ["shards"]'))
    finding = examine(machine)["head"]
    assert (finding.exit_code, "newer version" in finding.cure) == (7, True)
    assert "--restore-head" not in finding.cure


def test_nothing_there_at_all(machine: Machine) -> None:
    shutil.rmtree(machine.bucket)
    findings = examine(machine)
    assert (findings["endpoint"].level, findings["endpoint"].exit_code) == (Level.FAILURE, 10)
    assert findings["head"].level is Level.SKIPPED
    Path(machine.bucket).mkdir()
    finding = examine(machine)["head"]
    assert finding.exit_code == 10
    assert "init" in finding.cure


def test_the_copy_of_the_head(machine: Machine) -> None:
    newest = max(Path(machine.bucket, "snapshots").iterdir())
    oldest = min(Path(machine.bucket, "snapshots").iterdir())
    newest.write_bytes(oldest.read_bytes())
    assert examine(machine)["snapshot copy"].exit_code == 7
    head = parse_manifest(Path(machine.bucket, "manifest.json").read_bytes())
    newest.write_bytes(compress(encode_manifest(replace(head, message="another"))))
    assert "not the same" in examine(machine)["snapshot copy"].cause
    newest.unlink()
    finding = examine(machine)["snapshot copy"]
    assert (finding.level, finding.exit_code) == (Level.FAILURE, 7)
    assert "missing" in finding.cause


# ---- against real servers


@pytest.fixture
def remote(tmp_path: Path, seaweed_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> Machine:
    env = {**seaweed_http.environment(), "HOME": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{tmp_path.name}"
    made = Machine(tmp_path / "gpu", url, endpoint_url=seaweed_http.endpoint_url, env=env)
    made.write("exp/a.json", "a")
    made.push()
    return made


def told(machine: Machine, env: dict[str, str]) -> tuple[int, Findings]:
    machine.env = {**machine.env, **env}
    done = machine.command("doctor", "--json")
    assert "Traceback" not in done.stderr
    found = [Finding(**{**f, "level": Level(f["level"])}) for f in json.loads(done.stdout)["findings"]]
    return done.returncode, {finding.name: finding for finding in found}


def test_a_real_server(remote: Machine, seaweed_http: S3Server) -> None:
    code, findings = told(remote, {})
    assert (code, problems(findings)) == (0, [])
    assert seaweed_http.endpoint_url in findings["endpoint"].cause
    assert "SeaweedFS" in findings["endpoint"].cause
    assert "access key TEST...5678 from env" in findings["credentials"].cause
    assert "testsecretkey" not in str(findings)
    assert "damaged" in findings["checksums"].cause
    assert [item.key for item in remote.project().store().list("probe/")] == []


def test_a_wrong_secret(remote: Machine) -> None:
    code, findings = told(remote, {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert (code, problems(findings)) == (12, ["failure credentials"])
    assert "AWS_SECRET_ACCESS_KEY" in findings["credentials"].cure


def test_no_credentials(remote: Machine) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        remote.env.pop(name)
    del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    code, findings = told(remote, {"AWS_EC2_METADATA_DISABLED": "true"})
    assert (code, problems(findings)) == (12, ["failure credentials"])


def test_a_read_only_key_of_a_real_server(remote: Machine, seaweed_http: S3Server) -> None:
    code, findings = told(remote, seaweed_http.environment(read_only=True))
    assert (code, problems(findings)) == (0, ["warning credentials"])
    assert "push does not" in findings["credentials"].cause
    assert findings["clock"].level is Level.OK


def test_no_such_bucket(remote: Machine) -> None:
    config = remote.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace(f"s3://{BUCKET}/", "s3://nothere/"))
    code, findings = told(remote, {})
    assert (code, problems(findings)) == (10, ["failure credentials"])
    assert "nothere" in findings["credentials"].cause


def test_a_server_that_is_down(remote: Machine, seaweed_http: S3Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = remote.folder / "manifest-sync.toml"
        port = str(taken.getsockname()[1])
        config.write_text(config.read_text().replace(seaweed_http.endpoint_url.rpartition(":")[2], port))
        code, findings = told(remote, {})
    assert (code, problems(findings)) == (5, ["failure endpoint"])
    assert port in findings["endpoint"].cause
    assert findings["index"].level is Level.OK
    assert findings["head"].level is Level.SKIPPED


def test_a_certificate_that_is_not_trusted(remote: Machine, seaweed_tls: S3Server) -> None:
    config = remote.folder / "manifest-sync.toml"
    text = config.read_text().splitlines()
    text[2] = f'endpoint_url = "{seaweed_tls.endpoint_url}"'
    config.write_text("\n".join(text))
    code, findings = told(remote, {})
    assert (code, problems(findings)) == (5, ["failure endpoint"])
    assert "AWS_CA_BUNDLE" in findings["endpoint"].cure
    assert seaweed_tls.ca_bundle is not None
    code, findings = told(remote, {"AWS_CA_BUNDLE": seaweed_tls.ca_bundle})
    assert (code, problems(findings)) == (10, ["failure head"])


def test_a_server_that_checks_no_checksums(
    tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**moto_server.environment(), "HOME": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/doctor"
    code, findings = told(Machine(tmp_path / "gpu", url, endpoint_url=moto_server.endpoint_url, env=env), {})
    assert (code, problems(findings)) == (0, ["warning checksums"])
