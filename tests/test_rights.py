"""What a key is good for that may not do everything, on a real server that enforces the bucket's policy."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manifest_sync.cli.main import main
from manifest_sync.errors import AccessDenied
from manifest_sync.project import Project
from manifest_sync.report import RunReport
from manifest_sync.rights import Rights
from manifest_sync.stores import open_store
from tests.json_doc import Schema
from tests.machines import Machine
from tests.servers import S3Server

_numbers = itertools.count(1)


DOCUMENT = Path(__file__).parent.parent / "docs" / "ci-read-only.md"


def documented_policy(bucket: str) -> list[dict[str, object]]:
    """The policy of the page on CI jobs, for another bucket."""
    found = re.search(r"```json\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    text = found[1].replace("trait-interp-bucket", bucket).replace("experiments/", "team/")
    statements: list[dict[str, object]] = json.loads(text)["Statement"]
    return statements


def read_only(bucket: str) -> dict[str, object]:
    return documented_policy(bucket)[0]


def listing(bucket: str) -> dict[str, object]:
    return documented_policy(bucket)[1]


def read_and_write(bucket: str) -> dict[str, object]:
    return {**read_only(bucket), "Action": ["s3:GetObject", "s3:PutObject"]}


class Pair:
    """``owner``, whose key may do everything, and ``guest``, whose key may do what the policy says."""

    def __init__(self, folder: Path, server: S3Server, *rights: Callable[[str], dict[str, object]]) -> None:
        bucket = f"rights-{next(_numbers)}"
        server.restricted_bucket(bucket, *(right(bucket) for right in rights))
        url = f"s3://{bucket}/team"
        self.url = url
        self.owner = Machine(folder / "owner", url, env=server.r2_environment())
        self.owner.store = open_store(self.owner.project().location())
        self.owner.write("a/one.json", "one")
        self.owner.write("b/two.json", "two")
        self.owner.push()
        self.guest = Machine(folder / "guest", url, env=server.r2_environment(guest=True))
        self.guest.store = open_store(self.guest.project().location())

    def refused(self, run: Callable[[Project], object]) -> AccessDenied:
        with pytest.raises(AccessDenied) as caught:
            run(self.guest.project())
        assert caught.value.exit_code == 12
        return caught.value

    def told(self, *words: str) -> Result:
        """What the command prints when the guest runs it."""
        with contextlib.chdir(self.guest.folder):
            return CliRunner().invoke(main, words, env=self.guest.env)

    def tried(self) -> set[str]:
        """The kinds of requests that the guest has made."""
        assert self.guest.store is not None
        return set(self.guest.store.requests)


def numbers(report: RunReport) -> tuple[int, int, int]:
    return report.new, report.changed, report.deleted


def test_a_key_that_only_reads_is_enough_for_all_that_reads(tmp_path: Path, seaweed_http: S3Server) -> None:
    pair = Pair(tmp_path, seaweed_http, read_only, listing)
    owner, guest = pair.owner, pair.guest
    assert numbers(guest.pull()) == (2, 0, 0)
    owner.write("a/one.json", "three")
    owner.push("copy")
    assert guest.status().cases == {"changed_there": [b"a/one.json"]}
    project = guest.project()
    assert [entry.path for entry in project.ls()] == [b"a/one.json", b"b/two.json"]
    assert [record.sequence for record in project.log()] == [2, 1, 0]
    assert b"".join(project.cat("a/one.json", at="1")) == b"one"
    with project.diff("1", "2") as found:
        assert [change.path for change in found.differences] == [b"a/one.json"]
    synced = guest.project().sync()
    assert (synced.exit_code, numbers(synced.pull), synced.error) == (0, (0, 1, 0), None)
    assert guest.read("a/one.json") == "three"
    assert numbers(guest.project().restore(["a"], at="1")) == (0, 1, 0)
    assert guest.read("a/one.json") == "one"
    assert guest.project().verify(read_data=True).exit_code == 0
    assert guest.project().verify(local=True).exit_code == 0
    guest.project().undo()
    assert guest.project().export(str(tmp_path / "plain")).new == 2
    assert guest.project().drop(["b"]).exit_code == 0
    assert guest.project().rebuild_index().exit_code == 0
    guest.project().gc(keep_last=1, min_age=timedelta(0))
    assert pair.tried() <= {"GET", "HEAD", "LIST"}


def test_what_needs_more_says_so_and_loses_nothing(tmp_path: Path, seaweed_http: S3Server) -> None:
    pair = Pair(tmp_path, seaweed_http, read_only, listing)
    guest = pair.guest
    guest.pull()
    guest.write("a/new.json", "new")
    refused = [
        pair.refused(lambda project: project.push("copy")),
        pair.refused(lambda project: project.pin("1", "paper")),
        pair.refused(lambda project: project.gc(keep_last=1, min_age=timedelta(0), apply=True)),
    ]
    for error in refused:
        assert error.message.startswith(f"this key may only read {pair.url}: writing ")
        assert f"need write permission (s3:PutObject) on objects below {pair.url}/" in error.hint
    assert guest.status().cases == {"new_here": [b"a/new.json"]}, "what was planned is still planned"
    assert numbers(guest.push(dry_run=True)) == (1, 0, 0)
    guest.store = pair.owner.store
    assert numbers(guest.push()) == (1, 0, 0)
    assert numbers(pair.owner.pull()) == (1, 0, 0)
    # Beside what it may read.
    config = guest.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace("/team", "/other"))
    guest.store = None
    error = pair.refused(lambda project: project.pull())
    assert error.message.startswith(
        f"this key may not read {pair.url.replace('team', 'other')}/manifest.json"
    )


def test_the_pull_half_of_a_sync_is_done_and_told(tmp_path: Path, seaweed_http: S3Server) -> None:
    pair = Pair(tmp_path, seaweed_http, read_only)
    guest = pair.guest
    guest.write("a/new.json", "new")
    told = pair.told("sync", "--json")
    found = json.loads(told.stdout)
    Schema.read().check("sync", found)
    assert (told.exit_code, found["exit"], found["error"]) == (12, 12, "access_denied")
    assert (found["pull"]["new"], found["push"]) == (2, None)
    assert guest.read("a/one.json") == "one"
    told = pair.told("sync")
    assert told.exit_code == 12
    assert "pull --copy: 0 new" in told.stdout
    assert "push --copy:" not in told.stdout
    assert "1 new here: not pushed" in told.stdout
    assert f"this key may only read {pair.url}" in told.stderr


def test_a_key_that_may_not_list(tmp_path: Path, seaweed_http: S3Server) -> None:
    pair = Pair(tmp_path, seaweed_http, read_and_write)
    guest = pair.guest
    guest.pull()
    guest.write("a/one.json", "changed")
    assert numbers(guest.push("copy")) == (0, 1, 0)
    synced = guest.project().sync()
    assert synced.exit_code == 0
    project = guest.project()
    assert not guest.status().cases
    assert b"".join(project.cat("b/two.json")) == b"two"
    assert len(list(project.ls())) == 2
    with project.diff() as found:
        assert not list(found.differences)
    assert numbers(project.restore(["a"])) == (0, 0, 0)
    assert pair.tried() <= {"GET", "PUT"}
    needs: list[Callable[[Project], object]] = [
        lambda project: list(project.log()),
        lambda project: project.verify(),
        lambda project: project.gc(),
        lambda project: project.pin("1"),
        lambda project: project.drop(["a"]),
        lambda project: list(project.ls(at="1")),
    ]
    for command in needs:
        error = pair.refused(command)
        assert error.message.startswith(f"this key may not list {pair.url}/")
        assert f"need permission to list (s3:ListBucket) on objects below {pair.url}/" in error.hint


def test_a_key_that_may_not_delete(tmp_path: Path, seaweed_http: S3Server) -> None:
    """What a collection could not delete goes with the next one."""
    pair = Pair(tmp_path, seaweed_http, read_and_write, listing)
    guest = pair.guest
    guest.pull()
    guest.write("a/one.json", "changed")
    guest.push("copy")
    guest.project().pin("1", "paper")
    guest.project().unpin("paper")
    error = pair.refused(lambda project: project.gc(keep_last=1, min_age=timedelta(0), apply=True))
    assert error.message.startswith(f"this key may not delete {pair.url}/")
    assert "gc and export --prune need permission to delete (s3:DeleteObject)" in error.hint
    guest.write("a/one.json", "changed again")
    assert numbers(guest.push("copy")) == (0, 1, 0)
    assert guest.project().verify(read_data=True).exit_code == 0
    pair.owner.project().gc(keep_last=1, min_age=timedelta(0), apply=True)
    assert pair.owner.project().verify(read_data=True).exit_code == 0


def test_init_says_what_a_key_may(tmp_path: Path, seaweed_http: S3Server) -> None:
    pair = Pair(tmp_path, seaweed_http, read_and_write, listing)
    guest = pair.guest
    told = pair.told("init", "--json")
    found = json.loads(told.stdout)
    Schema.read().check("init", found)
    assert found["rights"] == {"list": True, "write": True, "delete": False}
    assert [item.key for item in pair.owner.project().store().list("probe/")], "it may not remove its probes"
    told = pair.told("doctor")
    assert "it may read and list and write; it may not delete: push and pull work, gc does not" in told.stdout
    fresh = Project.init(str(tmp_path / "fresh"), f"{pair.url}/below", env=guest.env)
    assert fresh.created
    assert fresh.rights == Rights(list=True, write=True, delete=False)
