"""What goes wrong where a user meets it: one clear message, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat as st
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.offline import OfflineStore
from tests.machines import Machine
from tests.servers import BUCKET, S3Server


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    made.write("exp/a.json", "a")
    return made


def check(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_no_project_here(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manifest_sync", "push"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    check(done, 2, "manifest-sync.toml")


def test_the_bucket_is_gone(machine: Machine, tmp_path: Path) -> None:
    machine.push()
    (tmp_path / "bucket").rename(tmp_path / "elsewhere")
    check(machine.command("push", "--full"), 10, "bucket")
    check(machine.command("status"), 10, "bucket")
    assert machine.command("status", "--offline").returncode == 0


def test_offline_nothing_is_loaded_that_could_ask(machine: Machine) -> None:
    """No library for S3, no credentials, no endpoint: what is not there cannot send a request."""
    machine.push()
    config = machine.folder / "manifest-sync.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("bucket")]
    config.write_text("\n".join(['bucket = "s3://nowhere/x"', 'endpoint_url = "http://127.0.0.1:9"', *lines]))
    code = (
        "import sys; from manifest_sync.cli.main import main;"
        "codes = [main(words.split(), standalone_mode=False) for words in sys.argv[1:]];"
        "sys.exit(max(codes) or 99 * ('botocore' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status --offline", "owners --offline", "owners exp/a.json"],
        cwd=machine.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done


def test_offline_what_is_not_kept_here_is_not_fetched() -> None:
    store = OfflineStore("s3://bucket/x")
    calls: list[Callable[[], object]] = [
        lambda: store.get("manifest.json", max_bytes=1),
        lambda: store.get_range("packs/x", 0, 1),
        lambda: store.put("k", b""),
        lambda: store.put_if("k", b"", etag=None),
        lambda: store.list(""),
        lambda: store.delete("k"),
        lambda: store.beside("s3://other"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="--offline"):
            call()
    assert not store.requests


def test_another_buckets_repository(machine: Machine, tmp_path: Path) -> None:
    machine.push()
    Machine(tmp_path / "other", str(tmp_path / "bucket2"))
    shutil.rmtree(tmp_path / "bucket")
    (tmp_path / "bucket2").rename(tmp_path / "bucket")
    check(machine.command("pull", "--full"), 7, "repository")
    assert machine.read("exp/a.json") == "a"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe", b'{"format":99,"features_read":[]}', b"[" * 100_000],
)
def test_a_damaged_manifest(machine: Machine, tmp_path: Path, body: bytes) -> None:
    machine.push()
    (tmp_path / "bucket/manifest.json").write_bytes(body)
    for command in ("push", "pull", "status", "ls"):
        check(machine.command(command), 7)
    assert machine.read("exp/a.json") == "a"


def test_a_corrupt_index(machine: Machine) -> None:
    machine.push()
    index = machine.folder / ".manifest-sync/index.sqlite"
    index.write_bytes(b"not a database" * 1000)
    check(machine.command("push"), 7, "rebuild-index")
    assert machine.command("rebuild-index").returncode == 0
    assert not machine.status().has_drift


def test_another_run_holds_the_lock(machine: Machine) -> None:
    with machine.project().workspace(()):
        check(machine.command("push"), 11, str(os.getpid()))
        assert machine.command("status").returncode == 0


def test_wrong_credentials(tmp_path: Path, seaweed_http: S3Server) -> None:
    env = {**seaweed_http.environment(), "AWS_SECRET_ACCESS_KEY": "wrong", "HOME": str(tmp_path)}
    check(_init(tmp_path, f"s3://{BUCKET}/x", seaweed_http.endpoint_url, env), 12, BUCKET)


def test_no_credentials(tmp_path: Path, seaweed_http: S3Server) -> None:
    env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    check(_init(tmp_path, f"s3://{BUCKET}/x", seaweed_http.endpoint_url, env), 12, "credentials")


def test_no_such_bucket(tmp_path: Path, seaweed_http: S3Server) -> None:
    env = {**seaweed_http.environment(), "HOME": str(tmp_path)}
    check(_init(tmp_path, "s3://nothere/x", seaweed_http.endpoint_url, env), 10, "nothere")


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "HOME": str(tmp_path)}
    check(_init(tmp_path, "s3://b/x", f"http://127.0.0.1:{port}", env), 5, str(port))


def _init(folder: Path, bucket: str, endpoint: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "R2_", "MANIFEST_SYNC_"))}
    done = subprocess.run(
        [sys.executable, "-m", "manifest_sync", "init", bucket, "--endpoint-url", endpoint],
        cwd=folder,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (folder / "manifest-sync.toml").exists(), "a failed init leaves nothing behind"
    return done


def test_errors_as_json(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "bucket/manifest.json").write_bytes(b"{")
    done = machine.command("push", "--json")
    assert set(json.loads(done.stdout)) == {"error", "message", "hint"}


def test_json_has_the_fields_scripts_rely_on(machine: Machine) -> None:
    report = json.loads(machine.command("push", "--json").stdout)
    wanted = (
        "command mode dry_run new changed deleted unchanged left conflicts skipped bytes stored_bytes "
        "requests snapshot sequence seconds"
    )
    assert set(wanted.split()) <= set(report)
    assert report["new"] == 1


def test_odd_files(machine: Machine, tmp_path: Path) -> None:
    root = machine.root
    os.mkfifo(root / "exp/fifo")
    (root / "exp/dangling").symlink_to("nowhere")
    (root / "exp/outside").symlink_to("/etc/passwd")
    (root / "exp/loop").symlink_to(".")
    (root / "exp/emptyfolder").mkdir()
    os.link(root / "exp/a.json", root / "exp/hardlink.json")
    Path(os.fsdecode(os.fsencode(root) + b"/exp/\xff\xfe.bin")).write_bytes(b"not UTF-8")
    machine.write("exp/new\nline\t.json", "n")
    machine.write("exp/" + "n" * 255, "long")
    machine.write("exp/future", "f", mtime_ns=4_000_000_000 * 10**9)
    machine.write("exp/before1970", "b", mtime_ns=-5)
    with open(machine.write("exp/sparse", b""), "r+b") as file:
        file.truncate(3 << 20)
    (root / "exp/future").chmod(0o4755)
    report = machine.push()
    assert (report.new, report.exit_code) == (8, 0)
    laptop = Machine(tmp_path / "laptop", machine.bucket)
    laptop.pull()
    names = {os.fsencode(p) for p in laptop.tree()}
    assert b"exp/\xff\xfe.bin" in names
    assert b"exp/new\nline\t.json" in names
    for name in ("a.json", "hardlink.json", "n" * 255, "future", "before1970", "sparse"):
        one, other = root / "exp" / name, laptop.root / "exp" / name
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_mtime_ns == other.stat().st_mtime_ns
    assert st.S_IMODE((laptop.root / "exp/future").stat().st_mode) == 0o755
    assert machine.push("full").requests == {"GET": 1}


@pytest.mark.parametrize("folder", ["purelib", "stdlib"])
def test_real_trees(tmp_path: Path, folder: str) -> None:
    """Trees that nobody made for this: every byte, mtime and permission bit arrives."""
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    config = gpu.folder / "manifest-sync.toml"
    config.write_text(
        config.read_text().replace('rules = ["git *.py", "git *.md", "git config.json", ', "rules = [")
    )
    ignore = shutil.ignore_patterns("__pycache__", "site-packages", "boto*", "*.so", "weed*", "mypy*")
    shutil.copytree(sysconfig.get_path(folder), gpu.root, symlinks=False, dirs_exist_ok=True, ignore=ignore)
    report = gpu.push()
    assert report.skipped == []
    laptop = Machine(tmp_path / "laptop", str(tmp_path / "bucket"))
    (laptop.folder / "manifest-sync.toml").write_text(config.read_text())
    assert laptop.pull().new == report.new > 500
    assert laptop.tree() == gpu.tree()
    assert gpu.push("full").requests == {"GET": 1}
    assert laptop.push("full").requests == {"GET": 1}
