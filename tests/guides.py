"""The documents whose sessions are run, and the machines, trees and buckets that each starts from."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from manifest_sync.project import Project
from tests import servers
from tests.machines import GIT_FREE_CONFIG, Machine
from tests.servers import S3Server

DOCS = Path(__file__).parent.parent / "docs"
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Guide:
    """A document; ``make_world`` takes the folder of all machines, and a real S3 server if ``s3``."""

    name: str
    make_world: Callable[..., None]
    s3: bool = False

    @property
    def document(self) -> Path:
        return DOCS / self.name


class Dated(Project):
    """A project whose clock shows the day that is chosen."""

    days_ago = 0

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=self.days_ago)


def result(dice: random.Random, step: int, numbers: int = 30) -> str:
    """A small file of results."""
    return json.dumps(
        {"step": step, "loss": dice.random(), "scores": [dice.random() for _ in range(numbers)]}
    )


def recovery(world: Path) -> None:
    """Two machines in sync on one bucket; each experiment was pushed on a day of its own, the last today."""
    experiments, files = 12, 20
    bucket = str(world / "bucket")
    gpu, laptop = Machine(world / "gpu", bucket), Machine(world / "laptop", bucket)
    dice = random.Random(1)
    for number in range(experiments):
        for file in range(files):
            gpu.write(f"exp{number:02}/{file:02}.json", result(dice, file))
        project = Dated.find(str(gpu.folder), env={})
        project.days_ago = experiments - 1 - number
        project.push(message=f"experiment {number:02}")
    laptop.pull()


def moving(world: Path, server: S3Server) -> None:
    """What a team with scripts around rclone has: code in git on two machines, and data under plain names.

    The script filled the bucket: without what it excludes, with a file that is gone since, with some files
    as one bundle. ``box`` and ``desk`` have moved already; their rules are those of the document.
    """
    _rclone_remote(world, server)
    (world / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    dice = random.Random(2)
    data = {f"exp{number:02}/{file:02}.json": result(dice, file) for number in (1, 2, 3) for file in range(4)}
    data |= {"exp01/finetune/adapter.safetensors": "weights"}
    bundled = {f"exp02/projections/set/{file:02}.json": result(dice, file) for file in range(3)}
    left_out = {"exp01/activations/layer00.pt": "numbers", "exp01/run_trajectories.pt": "numbers"}
    code = {"exp01/plot.py": "print()", "exp01/config.json": "{}"}
    _write(world / "gpu" / "experiments", data | bundled | left_out | code)
    (world / "gpu" / ".gitignore").write_text("*.json\n*.pt\n*.safetensors\n!config.json\n")
    for command in (
        "init -q --bare -b main code.git",
        "-C gpu init -q -b main",
        f"-C gpu remote add origin {world}/code.git",
        "-C gpu add .",
        "-C gpu commit -qm Plot",
        "-C gpu push -qu origin main",
        f"clone -q {world}/code.git laptop",
    ):
        environment = {"HOME": str(world), "PATH": os.environ["PATH"]}
        subprocess.run(["git", *command.split()], check=True, cwd=world, env=environment, capture_output=True)
    _write(
        world / "laptop" / "experiments", {path: data[path] for path in data if path.startswith("exp01/0")}
    )
    server.make_bucket("lab")
    there = data | {"exp02/stale.json": "{}", "exp02/projections/set.tar.zst": "a bundle"}
    for path, content in there.items():
        server.put("lab", f"experiments/{path}", content.encode())

    rules = TOML.findall((DOCS / "moving-from-rclone.md").read_text("utf-8"))[0]
    box, desk = Machine(world / "box", str(world / "bucket")), Machine(world / "desk", str(world / "bucket"))
    for machine in (box, desk):
        config = machine.folder / "manifest-sync.toml"
        config.write_text(f'bucket = "{world}/bucket"\nroot = "experiments"\n{rules}')
    _write(box.root, data | left_out | {"archive/old/00.json": "{}", "findings/summary.json": "{}"})
    box.push(groups=("archive", "findings"))
    desk.pull()
    desk.write("exp03/notes.json", "from the desk")
    desk.push()


def laptop(world: Path) -> None:
    """A GPU machine whose experiments are in the bucket, and a laptop that has joined it, empty."""
    bucket = str(world / "bucket")
    gpu = Machine(world / "gpu", bucket)
    dice = random.Random(3)
    for number in range(1, 13):
        for file in range(5):
            gpu.write(f"exp{number:02}/{file:02}.json", result(dice, file, 600))
    gpu.push()
    Machine(world / "laptop", bucket)


def web(world: Path, server: S3Server) -> None:
    """Experiments in the bucket of a store, a machine that deploys, and the list of what the site shows."""
    _rclone_remote(world, server)
    server.make_bucket("results")
    server.make_bucket("site")
    dice = random.Random(4)
    gpu = Machine(world / "gpu", "r2:results/experiments", env={"HOME": str(world)})
    for number in range(1, 4):
        for name in ("summary", "responses", "raw"):
            gpu.write(f"exp{number:02}/{name}.json", result(dice, number, 600))
    gpu.push()
    deploy = world / "web"
    config = GIT_FREE_CONFIG.format(bucket="read:results/experiments", endpoint="", defaults="")
    _write(deploy, {"manifest-sync.toml": config})
    shown = [f"exp{number:02}/{name}.json" for number in (1, 2) for name in ("summary", "responses")]
    (deploy / "web-files.txt").write_text("\n".join(shown) + "\n")


GUIDES = (
    Guide("recovery.md", recovery),
    Guide("moving-from-rclone.md", moving, s3=True),
    Guide("laptop.md", laptop),
    Guide("web-deployment.md", web, s3=True),
)


def rewrite_guides(names: list[str]) -> Iterator[Path]:
    """Write the outputs in the documents of these names anew, or in all; what was written."""
    from tests.console_doc import rewrite  # noqa: PLC0415

    chosen = [guide for guide in GUIDES if not names or guide.name in names]
    for guide in chosen:
        with ExitStack() as running:
            make = guide.make_world
            if guide.s3:
                folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
                server = running.enter_context(servers.seaweedfs(folder, tls=False))
                rewrite(guide.document, partial(make, server=server))
            else:
                rewrite(guide.document, make)
        yield guide.document


def _write(root: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def _rclone_remote(world: Path, server: S3Server) -> None:
    """What `rclone config`, or a script, has written: a remote ``r2``, and one that may only read."""
    conf = world / ".config" / "rclone" / "rclone.conf"
    conf.parent.mkdir(parents=True)
    keys = {
        "r2": (servers.ACCESS_KEY, servers.SECRET_KEY),
        "read": (servers.READ_ONLY_ACCESS_KEY, servers.READ_ONLY_SECRET_KEY),
    }
    conf.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = Other\naccess_key_id = {key}\nsecret_access_key = {secret}\n"
            f"endpoint = {server.endpoint_url}\n"
            for name, (key, secret) in keys.items()
        )
    )
