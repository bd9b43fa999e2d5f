"""Export: plain files elsewhere, verified, written once, and nothing of ours or of others harmed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path as FsPath
from typing import Any

import boto3.session
import pytest
from boto3.s3.transfer import TransferConfig

from manifest_sync.errors import ManifestSyncError, SafetyLimit, UsageError
from manifest_sync.export.destination import check_no_repository
from manifest_sync.export.folder import FolderDestination
from manifest_sync.model import Path
from manifest_sync.report import RunReport
from manifest_sync.stores import s3_plain
from tests.machines import Machine
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server


@pytest.fixture
def gpu(tmp_path: FsPath) -> Machine:
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
    made.write("exp1/a.json", "aaaa", mtime_ns=10**18)
    made.write("exp1/sub/b.html", "b", mtime_ns=10**18)
    made.write("exp2/run", "#!/bin/sh\n").chmod(0o750)
    made.write("exp2/big", os.urandom(3 << 20))
    made.write("exp2/empty", "")
    os.symlink("big", made.root / "exp2/link")
    made.push()
    return made


@pytest.fixture
def site(tmp_path: FsPath) -> FsPath:
    return tmp_path / "site"


KEYS = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}


def names(folder: FsPath) -> set[str]:
    found = (FsPath(top) / name for top, _, files in os.walk(folder) for name in files)
    return {str(path.relative_to(folder)) for path in found}


def no_reading(*_: Any) -> Any:
    raise AssertionError("it is known without reading")


ALL = {"exp1/a.json", "exp1/sub/b.html", "exp2/run", "exp2/big", "exp2/empty", "exp2/link"}


def test_a_folder_gets_what_the_bucket_holds_and_only_once(
    gpu: Machine, site: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = gpu.project().export(str(site))
    assert (report.new, report.bytes, report.exit_code) == (6, (3 << 20) + 15 + len("big"), 0)
    assert names(site) == ALL, "nothing of ours is left in it"
    for name in ALL:
        here, there = gpu.root / name, site / name
        assert there.read_bytes() == here.read_bytes()
        assert there.lstat().st_mode == here.lstat().st_mode
    assert (site / "exp1/a.json").stat().st_mtime_ns == 10**18
    assert (site / "exp2/link").readlink() == FsPath("big")
    before = {name: (site / name).lstat() for name in ALL}
    with monkeypatch.context() as patch:
        patch.setattr(FolderDestination, "holds", no_reading)
        report = gpu.project().export(str(site), prune=True)
    assert (report.new, report.changed, report.unchanged, report.deleted) == (0, 0, 6, 0)
    assert {name: (site / name).lstat() for name in ALL} == before
    assert report.requests == {"GET": 1}
    # The state is a cache: without it everything is read there, and still nothing is written.
    for state in (gpu.folder / ".manifest-sync/exports").iterdir():
        state.write_bytes(b"not ours")
    report = gpu.project().export(str(site))
    assert (report.unchanged, report.new + report.changed) == (6, 0)
    assert {name: (site / name).lstat() for name in ALL} == before


def test_a_change_of_the_same_size_and_time_is_noticed_on_both_sides(gpu: Machine, site: FsPath) -> None:
    gpu.project().export(str(site))
    gpu.write("exp1/a.json", "bbbb", mtime_ns=10**18)
    gpu.push("copy")
    assert gpu.project().export(str(site)).changed == 1
    assert (site / "exp1/a.json").read_text() == "bbbb"
    (site / "exp1/a.json").write_text("cccc")
    os.utime(site / "exp1/a.json", ns=(10**18, 10**18))
    (site / "exp2/run").chmod(0o640)
    (site / "exp1/sub/b.html").unlink()
    report = gpu.project().export(str(site))
    assert (report.new, report.changed) == (1, 2)
    assert (site / "exp1/a.json").read_text() == "bbbb"
    assert (site / "exp2/run").stat().st_mode & 0o777 == 0o750


def test_what_is_exported_can_be_chosen(gpu: Machine, tmp_path: FsPath) -> None:
    (gpu.root / "exp1/a.json").unlink()
    gpu.push("full")

    def exported(name: str, **options: Any) -> set[str]:
        gpu.project().export(str(tmp_path / name), **options)
        return names(tmp_path / name)

    assert exported("1", only=["exp1"]) == {"exp1/sub/b.html"}
    assert exported("2", at="1", only=["exp1"]) == {"exp1/sub/b.html", "exp1/a.json"}
    assert exported("3", files_from=["exp2/run", "experiments/exp1"]) == {"exp2/run", "exp1/sub/b.html"}
    assert exported("4", only=["exp2"], exclude=["big", "l*"]) == {"exp2/run", "exp2/empty"}
    with pytest.raises(UsageError, match=r"exp1/a\.json is not in snapshot 2"):
        gpu.project().export(str(tmp_path / "5"), only=["exp1/a.json", "exp2"])
    (gpu.folder / "list").write_text("exp2/empty\n")
    found = gpu.command("export", "../6", "--files-from", "list", "--json")
    assert (found.returncode, json.loads(found.stdout)["new"]) == (0, 1)
    assert names(tmp_path / "6") == {"exp2/empty"}


def test_pruning_is_asked_for_and_bounded(gpu: Machine, site: FsPath) -> None:
    gpu.project().export(str(site))
    for number in range(30):
        (site / f"other{number}").write_text("x")
    (site / ".git").mkdir()
    (site / ".git/config").write_text("x")
    os.symlink("nowhere", site / "dangling")
    assert gpu.project().export(str(site)).deleted == 0
    assert len(names(site)) == 38
    with pytest.raises(SafetyLimit):
        gpu.project().export(str(site), prune=True)
    looked = gpu.project().export(str(site), only=["exp1"], prune=True, dry_run=True)
    assert (len(looked.actions), looked.exit_code, "--max-delete 35" in looked.limit) == (35, 8, True)
    planned = gpu.project().export(str(site), only=["exp1"], prune=True, max_delete="100%", dry_run=True)
    assert (planned.deleted, len(planned.actions)) == (35, 35)
    assert len(names(site)) == 38
    report = gpu.project().export(str(site), only=["exp1"], prune=True, max_delete="35")
    assert (report.deleted, report.unchanged) == (35, 2)
    with pytest.raises(UsageError, match="nothing is selected"):
        gpu.project().export(str(site), exclude=["*"], prune=True)
    assert names(site) == {"exp1/a.json", "exp1/sub/b.html", ".git/config"}
    assert not (site / "exp2").exists()


def test_pruning_clears_the_way(gpu: Machine, site: FsPath) -> None:
    (site / "exp1/a.json/deep").mkdir(parents=True)
    (site / "exp1/a.json/deep/x").write_text("a folder where a file has to be")
    (site / "exp2").write_text("a file where a folder has to be")
    report = gpu.project().export(str(site))
    assert (report.exit_code, [path for path, _ in report.skipped]) == (
        3, [b"exp1/a.json", b"exp2/big", b"exp2/empty", b"exp2/link", b"exp2/run"]
    )  # fmt: skip
    report = gpu.project().export(str(site), prune=True)
    assert (report.exit_code, report.new, report.deleted) == (0, 5, 2)
    assert names(site) == ALL


def test_nothing_is_written_through_a_link(gpu: Machine, site: FsPath, tmp_path: FsPath) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("mine")
    site.mkdir()
    os.symlink(outside, site / "exp1")
    report = gpu.project().export(str(site), only=["exp1"])
    assert (report.exit_code, report.new) == (3, 0)
    assert names(outside) == {"a.json"}
    assert gpu.project().export(str(site), only=["exp1"], prune=True).exit_code == 0
    assert (outside / "a.json").read_text() == "mine"
    assert names(site) == {"exp1/a.json", "exp1/sub/b.html"}


@pytest.mark.parametrize("place", [".", "experiments", "experiments/x", "..", "../bucket", "../bucket/x",
                                   ".manifest-sync/x", "../lnk/x", "memory://x", "../other"])  # fmt: skip
def test_a_destination_that_is_ours_is_refused(
    gpu: Machine, tmp_path: FsPath, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(gpu.root, tmp_path / "lnk")
    Machine(tmp_path / "project", str(tmp_path / "other"))
    before = names(tmp_path)
    monkeypatch.chdir(gpu.folder)
    with pytest.raises(UsageError):
        gpu.project().export(place, prune=True, max_delete="100%")
    if place == "../other":
        for other in ("../project", "../other"):
            with pytest.raises(UsageError):
                gpu.project().export(other)
    assert names(tmp_path) == before


def test_damage_in_the_bucket_hurts_its_own_files_and_stops_pruning(
    gpu: Machine, site: FsPath, tmp_path: FsPath
) -> None:
    gpu.write("exp3/late", "late")
    gpu.push()
    newest = max((tmp_path / "bucket/packs").rglob("*.pack"), key=lambda pack: pack.stat().st_mtime_ns)
    body = newest.read_bytes()
    newest.write_bytes(bytes(len(body)))
    site.mkdir()
    (site / "old").write_text("x")
    report = gpu.project().export(str(site), prune=True)
    assert ([path for path, _ in report.damaged], report.new, report.exit_code) == ([b"exp3/late"], 6, 7)
    assert (report.left, report.deleted) == ({"not pruned": 1}, 0)
    assert names(site) == ALL | {"old"}
    newest.write_bytes(body)
    assert gpu.project().export(str(site), prune=True).exit_code == 0
    assert names(site) == ALL | {"exp3/late"}


def test_what_a_killed_export_left_goes_and_what_it_wrote_is_not_written_again(
    gpu: Machine, site: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    replace = FolderDestination.write

    def fail(self: FolderDestination, items: Any, *rest: Any) -> Any:
        written.extend(entry.path for entry, _ in items)
        if len(written) > 2:
            raise ManifestSyncError("the disk is gone")
        return replace(self, items, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("manifest_sync.landing.WINDOW_FILES", 2)
        patch.setattr(FolderDestination, "write", fail)
        with pytest.raises(ManifestSyncError):
            gpu.project().export(str(site))
    assert names(site) == {"exp1/a.json", "exp1/sub/b.html"}
    left = site / ".manifest-sync-export/staging"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(FolderDestination, "holds", no_reading)
        report = gpu.project().export(str(site), prune=True)
    assert (report.new, report.unchanged) == (4, 2)
    assert names(site) == ALL


class Objects:
    """The plain objects below a prefix, asked with another client than the program's."""

    def __init__(self, server: S3Server) -> None:
        self.client = boto3.session.Session(ACCESS_KEY, SECRET_KEY).client(
            "s3", endpoint_url=server.endpoint_url, region_name="us-east-1"
        )

    def names(self, prefix: str) -> set[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {item["Key"].removeprefix(prefix) for item in found}

    def head(self, key: str) -> Any:
        return self.client.head_object(Bucket=BUCKET, Key=key)

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)


@pytest.fixture
def objects(seaweed_http: S3Server) -> Iterator[Objects]:
    found = Objects(seaweed_http)
    yield found
    found.client.close()


def to_s3(machine: Machine, server: S3Server, place: str, **options: Any) -> RunReport:
    machine.env |= KEYS
    return machine.project().export(place, endpoint_url=server.endpoint_url, **options)


def test_a_prefix_gets_plain_objects_and_only_once(
    gpu: Machine, seaweed_http: S3Server, objects: Objects
) -> None:
    place = f"s3://{BUCKET}/plain"
    gpu.write(os.fsdecode(b"exp1/\xff"), "no key")
    gpu.push()
    report = to_s3(gpu, seaweed_http, place)
    assert (report.new, report.exit_code) == (5, 3)
    assert [path for path, _ in report.skipped] == [b"exp1/\xff", b"exp2/link"]
    assert objects.names("plain/") == ALL - {"exp2/link"}
    for name in ALL - {"exp2/link"}:
        assert objects.read(f"plain/{name}") == (gpu.root / name).read_bytes()
    head = objects.head("plain/exp1/a.json")
    assert (head["ContentType"], head["Metadata"]) == ("application/json", {"mtime": "1000000000.000000000"})
    assert objects.head("plain/exp1/sub/b.html")["ContentType"] == "text/html"
    again = to_s3(gpu, seaweed_http, place)
    assert (again.unchanged, again.bytes, again.requests) == (5, 0, {"GET": 1, "LIST": 1})
    # Another tool overwrote one with the same size, removed one, and left one of its own.
    objects.write("plain/exp1/a.json", b"cccc")
    objects.client.delete_object(Bucket=BUCKET, Key="plain/exp2/empty")
    objects.write("plain/other", b"x")
    planned = to_s3(gpu, seaweed_http, place, dry_run=True, prune=True)
    assert planned.actions == ["compare   exp1/a.json", "write     exp2/empty", "delete    other"]
    report = to_s3(gpu, seaweed_http, place, prune=True)
    assert (report.new, report.changed, report.deleted, report.requests["PUT"]) == (1, 1, 1, 2)
    assert objects.read("plain/exp1/a.json") == b"aaaa"
    assert objects.names("plain/") == ALL - {"exp2/link"}
    # Without the state, an ETag tells; nothing is sent.
    for state in (gpu.folder / ".manifest-sync/exports").iterdir():
        if state.is_file():
            state.unlink()
    report = to_s3(gpu, seaweed_http, place)
    assert (report.unchanged, report.changed, report.requests.get("PUT")) == (5, 0, None)
    assert to_s3(gpu, seaweed_http, place).requests == {"GET": 1, "LIST": 1}


def test_a_large_file_goes_in_parts(
    gpu: Machine, seaweed_http: S3Server, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_plain, "PART", 5 << 20)
    place = f"s3://{BUCKET}/parts"
    gpu.write("exp2/big", os.urandom((10 << 20) + 5))
    gpu.push("copy")
    report = to_s3(gpu, seaweed_http, place, only=["exp2/big"])
    assert (report.new, report.requests["PUT"]) == (1, 5), "begin, three parts, complete"
    assert objects.read("parts/exp2/big") == (gpu.root / "exp2/big").read_bytes()
    file = s3_plain.PlainFile(str(gpu.root / "exp2/big"), (10 << 20) + 5, 0)
    head = objects.head("parts/exp2/big")
    assert head["ETag"].strip('"') == file.etag()
    assert set(head["Metadata"]) == {"mtime", "md5chksum"}
    for state in (gpu.folder / ".manifest-sync/exports").iterdir():
        if state.is_file():
            state.unlink()
    assert to_s3(gpu, seaweed_http, place, only=["exp2/big"]).requests.get("PUT") is None
    # Another tool put the same there, in parts of another size.
    objects.client.upload_file(
        str(gpu.root / "exp2/big"), BUCKET, "parts/exp2/big",
        Config=TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=8 << 20),
    )  # fmt: skip
    assert objects.head("parts/exp2/big")["ETag"].strip('"') != file.etag()
    report = to_s3(gpu, seaweed_http, place, only=["exp2/big"])
    assert (report.unchanged, report.requests.get("PUT")) == (1, None)


def test_other_spellings_of_a_bucket(
    gpu: Machine, tmp_path: FsPath, seaweed_http: S3Server, objects: Objects
) -> None:
    conf = tmp_path / "rclone.conf"
    conf.write_text(
        f"[web]\ntype = s3\nendpoint = {seaweed_http.endpoint_url}\nregion = us-east-1\n"
        f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n"
    )
    gpu.env["RCLONE_CONFIG"] = str(conf)
    config = gpu.folder / "manifest-sync.toml"
    config.write_text(f'endpoint_url = "http://127.0.0.1:9"  # not the remote\'s\n{config.read_text()}')
    assert gpu.project().export(f"web:{BUCKET}/remote", only=["exp1"]).new == 2
    assert objects.names("remote/") == {"exp1/a.json", "exp1/sub/b.html"}
    endpoint = seaweed_http.endpoint_url
    repository = Machine(tmp_path / "s3", f"s3://{BUCKET}/repo", endpoint_url=endpoint,
                         env=KEYS)  # fmt: skip
    repository.write("exp1/a", "x")
    repository.push()
    kept = objects.names("repo/")
    elsewhere = endpoint.replace("127.0.0.1", "localhost")
    assert elsewhere != endpoint
    for place, url in (("repo", ""), ("repo/x", ""), ("", ""), ("repo", elsewhere), ("", elsewhere)):
        with pytest.raises(UsageError, match=r"overlaps|holds a repository"):
            repository.project().export(
                f"s3://{BUCKET}/{place}", prune=not place, max_delete="100%", endpoint_url=url
            )
    assert objects.names("repo/") == kept
    assert repository.project().export(f"s3://{BUCKET}/repository").new == 1


ID, SHA = "0a" * 16, "0b" * 32


@pytest.mark.parametrize(
    ("path", "is_object"),
    [
        (f"snapshots/0000000012-{ID}.json.zst", True),
        (f"web/repo/snapshots/12345678901-{ID}.json.zst", True),
        (f"repo/pages/7-{ID}/{SHA}.json.zst", True),
        (f"packs/0-{ID}/{SHA}.pack", True),
        (f"packs/0-{ID}/{SHA}.pack.txt", False),
        (f"snapshots/{ID}.json.zst", False),
        ("exp1/a\udcff.json", False),
    ],
)
def test_objects_of_a_repository_are_known_by_their_keys(path: str, is_object: bool) -> None:
    """Those of every sequence number: from the eleventh digit on its key is longer."""
    if is_object:
        with pytest.raises(UsageError, match="holds a repository"):
            check_no_repository("site", [Path(os.fsencode(path))])
    else:
        check_no_repository("site", [Path(os.fsencode(path))])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.json", "application/json"), ("x/index.html", "text/html"), ("a.json.gz", "application/gzip"),
     ("a.pt", "application/octet-stream"), ("http:x.css", "text/css"), ("a", "application/octet-stream")],
)  # fmt: skip
def test_types_by_name(name: str, kind: str) -> None:
    assert s3_plain.content_type(name) == kind


def test_the_size_of_parts() -> None:
    assert s3_plain.PlainFile("", 100 << 20, 0).part_size == 16 << 20
    huge = s3_plain.PlainFile("", 5 << 40, 0)
    assert -(-huge.size // huge.part_size) <= 10_000
    assert huge.part_size % (1 << 20) == 0
