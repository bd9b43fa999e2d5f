"""How each tool does each job: its command lines, with the flags that make it fastest at being right."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.cases import Operation
from benchmarks.measure import Command, Failed, Launcher
from benchmarks.programs import Programs
from benchmarks.server import ACCESS_KEY, REGION, SECRET_KEY, Server
from benchmarks.trees import PART, ROOT, Tree

SECRETS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
}
RULES = ["git *.py", "git *.md", "git config.json", "neither **/activations/"]


@dataclass(frozen=True)
class Place:
    """A bucket, and the endpoint at which it is reached."""

    bucket: str
    endpoint: str

    @property
    def url(self) -> str:
        """Where the tree goes."""
        return f"s3://{self.bucket}/{ROOT}"


@dataclass(frozen=True)
class Setting:
    """What every tool needs."""

    programs: Programs
    server: Server
    launcher: Launcher
    scratch: Path
    """A folder for configurations and caches."""


class Tool(Protocol):
    """A tool that keeps a tree in a bucket. Only what `command` returns is measured."""

    name: str
    program: str
    """The command that it needs, as `Programs` knows it."""

    def start(self, tree: Tree, place: Place) -> None:
        """Prepare the first push of a tree to an empty bucket; what is known of it here is forgotten."""
        ...

    def join(self, folder: Path, place: Place) -> None:
        """Prepare a pull to a machine that has nothing."""
        ...

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command | None:
        """The command line for an operation; None when the tool has nothing like it.

        Args:
            target: the folder prepared by `join`, for a pull.
        """
        ...

    def pulled(self, target: Path, tree: Tree) -> Path:
        """Where a pull put the root of the tree."""
        ...

    def check(self, tree: Tree, place: Place, changed: Iterable[str]) -> None:
        """Look whether the bucket holds the tree; the content is compared for the ``changed`` paths.

        Raises:
            Failed: it does not.
        """
        ...


class Ours:
    """manifest-sync itself, as a user has it: the installed command."""

    name = program = "manifest-sync"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._program = str(setting.programs.paths.get(self.program, ""))

    def start(self, tree: Tree, place: Place) -> None:
        shutil.rmtree(tree.folder / ".manifest-sync", ignore_errors=True)
        self.join(tree.folder, place)

    def join(self, folder: Path, place: Place) -> None:
        self._configure(folder, place)
        words = [self._program, "init", place.url, "-q"]
        self._setting.launcher.run(Command(words, folder, SECRETS))

    def _configure(self, folder: Path, place: Place) -> None:
        text = (
            f'bucket = "{place.url}"\nendpoint_url = "{place.endpoint}"\nroot = "{ROOT}"\n'
            f"[ownership]\ngit_tracked = false\nrules = {json.dumps(RULES)}\n"
        )
        path = folder / "manifest-sync.toml"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command:
        folder = target if operation.startswith("pull") else tree.folder
        self._configure(folder, place)
        words = {
            "first push": ["push"],
            "push": ["push", "--copy"],
            "push nothing": ["push"],
            "pull": ["pull"],
            "pull part": ["pull", "--only", PART],
            "status": ["status", "--offline"],
            "rebuild": ["rebuild-index"],
        }[operation]
        return Command([self._program, *words, "--json"], folder, SECRETS)

    def pulled(self, target: Path, tree: Tree) -> Path:
        return target / ROOT

    def check(self, tree: Tree, place: Place, changed: Iterable[str]) -> None:
        run = self._setting.launcher
        run.run(Command([self._program, "ls", "--json"], tree.folder, SECRETS))
        listed = {entry["path"]: entry["size"] for entry in json.loads(run.output())["entries"]}
        _same(tree.sizes(), listed)
        out = self._setting.scratch / "cat"
        for path in changed:
            words = ["sh", "-c", f'{self._program} cat "$0" > {out}', path]
            run.run(Command(words, tree.folder, SECRETS))
            _same_bytes(tree, path, out)


class PlainObjects:
    """What the tools that keep an object for each file have in common."""

    def __init__(self, name: str, program: str, setting: Setting) -> None:
        self.name = name
        self.program = program
        self._setting = setting

    def _command(self, words: Iterable[str], tree: Tree, environment: Mapping[str, str]) -> Command:
        program = str(self._setting.programs.paths[self.program])
        return Command([program, *words], tree.folder, environment)

    def start(self, tree: Tree, place: Place) -> None:
        """Nothing: these tools know nothing but what they list."""

    def join(self, folder: Path, place: Place) -> None:
        """Nothing either."""

    def pulled(self, target: Path, tree: Tree) -> Path:
        return target / ROOT

    def check(self, tree: Tree, place: Place, changed: Iterable[str]) -> None:
        server = self._setting.server
        _same(tree.sizes(), server.sizes(place.bucket, f"{ROOT}/"))
        for path in changed:
            out = self._setting.scratch / "object"
            server.fetch(place.bucket, f"{ROOT}/{path}", out)
            _same_bytes(tree, path, out)


class Rclone(PlainObjects):
    """rclone with a number of transfers at once."""

    def __init__(self, name: str, setting: Setting, transfers: int) -> None:
        super().__init__(name, "rclone", setting)
        self._transfers = transfers

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command | None:
        there = f"bench:{place.bucket}/{ROOT}"
        here = str(target / ROOT)
        words = {
            "first push": ["copy", ROOT, there],
            # A same-size overwrite is not seen by size, and by time it costs a HEAD for each object.
            "push": ["sync", "--checksum", "--fast-list", ROOT, there],
            "push nothing": ["sync", "--size-only", "--fast-list", ROOT, there],
            "pull": ["copy", there, here],
            "pull part": ["copy", f"{there}/{PART}", f"{here}/{PART}"],
            "status": ["sync", "--dry-run", "--size-only", "--fast-list", ROOT, there],
        }.get(operation)
        if words is None:
            return None
        many = str(self._transfers)
        flags = [
            "--transfers",
            many,
            "--checkers",
            many,
            "--s3-chunk-size",
            "16M",
            "--s3-upload-concurrency",
            "8",
        ]
        environment = {
            "RCLONE_CONFIG": str(self._setting.scratch / "no-rclone.conf"),
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_BENCH_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY": SECRET_KEY,
            "RCLONE_CONFIG_BENCH_ENDPOINT": place.endpoint,
            "RCLONE_CONFIG_BENCH_NO_CHECK_BUCKET": "true",
        }
        return self._command([*words, *flags], tree, environment)


class S5cmd(PlainObjects):
    """s5cmd with its 256 workers."""

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command | None:
        there = f"{place.url}/"
        here = f"{target / ROOT}/"
        words = {
            "first push": ["cp", f"{ROOT}/", there],
            "push": ["sync", f"{ROOT}/", there],
            "push nothing": ["sync", "--size-only", f"{ROOT}/", there],
            "pull": ["cp", f"{there}*", here],
            "pull part": ["cp", f"{there}{PART}/*", f"{here}{PART}/"],
            "status": ["--dry-run", "sync", "--size-only", f"{ROOT}/", there],
        }.get(operation)
        if words is None:
            return None
        flags = ["--endpoint-url", place.endpoint, "--log", "error"]
        return self._command([*flags, *words], tree, SECRETS)


class Aws(PlainObjects):
    """The AWS command line with 32 requests at once instead of ten."""

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command | None:
        there = place.url
        here = str(target / ROOT)
        words = {
            "first push": ["sync", ROOT, there],
            "push": ["sync", ROOT, there],
            "push nothing": ["sync", "--size-only", ROOT, there],
            "pull": ["sync", there, here],
            "pull part": ["sync", f"{there}/{PART}", f"{here}/{PART}"],
            "status": ["sync", "--dryrun", "--size-only", ROOT, there],
        }.get(operation)
        if words is None:
            return None
        config = self._setting.scratch / "aws.conf"
        config.write_text("[default]\ns3 =\n  max_concurrent_requests = 32\n  addressing_style = path\n")
        environment = {
            **SECRETS,
            "AWS_CONFIG_FILE": str(config),
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
        flags = ["--endpoint-url", place.endpoint, "--only-show-errors"]
        return self._command(["s3", *words, *flags], tree, environment)


class Restic:
    """restic: packs and snapshots as here, encrypted, for backup."""

    name = program = "restic"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def _words(self, place: Place, *words: str) -> list[str]:
        program = str(self._setting.programs.paths[self.program])
        return [program, "-r", f"s3:{place.endpoint}/{place.bucket}/restic", "-q", *words]

    def _environment(self, place: Place, folder: str = "cache") -> dict[str, str]:
        cache = self._setting.scratch / f"restic-{folder}-{place.bucket}"
        return {**SECRETS, "RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(cache)}

    def start(self, tree: Tree, place: Place) -> None:
        shutil.rmtree(self._environment(place)["RESTIC_CACHE_DIR"], ignore_errors=True)
        words = self._words(place, "init")
        self._setting.launcher.run(Command(words, tree.folder, self._environment(place)))

    def join(self, folder: Path, place: Place) -> None:
        """A new machine has no cache."""
        shutil.rmtree(self._environment(place, "new")["RESTIC_CACHE_DIR"], ignore_errors=True)

    def command(self, operation: Operation, tree: Tree, place: Place, target: Path) -> Command | None:
        restore = ["restore", "latest", "--target", str(target)]
        words = {
            "first push": ["backup", ROOT],
            "push": ["backup", ROOT],
            "push nothing": ["backup", ROOT],
            "pull": restore,
            "pull part": [*restore, "--include", f"/{ROOT}/{PART}"],
            "status": ["backup", "--dry-run", ROOT],
        }.get(operation)
        if words is None:
            return None
        environment = self._environment(place, "new" if operation.startswith("pull") else "cache")
        return Command(self._words(place, *words), tree.folder, environment)

    def pulled(self, target: Path, tree: Tree) -> Path:
        return target / ROOT

    def check(self, tree: Tree, place: Place, changed: Iterable[str]) -> None:
        run = self._setting.launcher
        run.run(
            Command(self._words(place, "stats", "--json", "latest"), tree.folder, self._environment(place))
        )
        found = json.loads(run.output())
        sizes = tree.sizes()
        if found["total_size"] != sum(sizes.values()) or found["total_file_count"] < len(sizes):
            raise Failed(
                f"the repository holds {found}, not {len(sizes)} files of {sum(sizes.values())} bytes"
            )
        out = self._setting.scratch / "dump"
        for path in changed:
            words = self._words(place, "dump", "latest", f"/{ROOT}/{path}")
            shell = ["sh", "-c", f'"$@" > {out}', "sh", *words]
            run.run(Command(shell, tree.folder, self._environment(place)))
            _same_bytes(tree, path, out)


def all_tools(setting: Setting) -> dict[str, Tool]:
    """The tools that could be had, by name."""
    found: list[Tool] = [
        Ours(setting),
        Rclone("rclone", setting, 32),
        Rclone("rclone-128", setting, 128),
        S5cmd("s5cmd", "s5cmd", setting),
        Aws("aws", "aws", setting),
        Restic(setting),
    ]
    return {tool.name: tool for tool in found if tool.program in setting.programs.paths}


def same_tree(tree: Tree, root: Path, part: str = "") -> None:
    """Raise `Failed` unless a pulled tree has the files of the other, some of them byte for byte."""
    wanted = tree.sizes(part=part)
    _same(wanted, tree.sizes(root))
    for name in tree.sample(part):
        _same_bytes(tree, name, root / name)


def _same(wanted: dict[str, int], found: dict[str, int]) -> None:
    if wanted != found:
        differing = sorted(wanted.items() ^ found.items())[:3]
        raise Failed(f"{len(found)} files instead of {len(wanted)}, or of other sizes: {differing}")


def _same_bytes(tree: Tree, path: str, found: Path) -> None:
    if not filecmp.cmp(tree.root / path, found, shallow=False):
        raise Failed(f"{path} was not brought up to date")
