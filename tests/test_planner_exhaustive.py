"""The planner over everything: each (local, base, bucket), alone and as a parent with a child, in every mode.

The real decision code, from the index's rows to the counts of the report, is compared with the oracle, which
knows nothing of it. One index holds every combination at once, each in a folder of its own, so that one plan
decides hundreds of them; the folders exist twice, below ``n`` and below ``o``, and options name only ``n``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FsPath
from random import Random
from typing import NamedTuple

import pytest

from manifest_sync import observe
from manifest_sync.decide import RunOptions, decide
from manifest_sync.diff import CONFLICTS, NUMBERS, Case, classify
from manifest_sync.index.index import Index
from manifest_sync.model import SPECIAL, Path, Stat, State, display
from manifest_sync.pages import PageRef
from manifest_sync.plan import MODES, Policy, Verb, iter_actions, present_after, summarize
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.scope import Scope
from manifest_sync.statcache import Observed
from manifest_sync.workspace import Workspace
from tests import oracle
from tests.machines import Machine
from tests.oracle import Asked, Bucket, File, Memory, Outcome, Tree

FILES = {
    "a": File(b"a"),
    "b": File(b"b"),
    "c": File(b"c"),
    "x": File(b"a", mode=0o755),  # only the executable bit tells it from a
    "l": File(b"a symlink to a"),
}
"""The contents that a path can have; ``-`` is none and ``o`` something that is never sent, only here."""
SETTLED = [
    (resolve, paths)
    for resolve, paths in itertools.product(("local", "remote", "both"), ((), ("n",), ("elsewhere",)))
]
ENDLESS = 10**9
ACTING = frozenset(Verb) - {Verb.LEAVE, Verb.RECORD, Verb.NOTHING}


class Triple(NamedTuple):
    path: Path
    local: State | None
    base: State | None
    remote: State | None


def state(letter: str) -> State | None:
    """The state that the package knows for a letter."""
    if letter == "-":
        return None
    if letter == "o":
        return SPECIAL
    kind = {"x": b"x", "l": b"l"}.get(letter, b"f")
    return State(kind + {"x": b"a"}.get(letter, letter.encode()) * 32)


def asked_for(*resolutions: tuple[str, tuple[str, ...]]) -> list[Asked]:
    """Every command with every mode and every option that may go with it."""
    found = []
    for command, mode, unknown, restore in itertools.product(
        ("push", "pull"), MODES, (False, True), (False, True)
    ):
        if (unknown and mode != "full") or (restore and command == "push"):
            continue
        for resolve, paths in resolutions:
            found.append(
                Asked(
                    command,
                    mode,
                    delete_unknown=unknown,
                    restore_deleted=restore,
                    resolve=resolve,
                    resolve_paths=paths,
                    dry_run=True,
                    max_delete=ENDLESS,
                )
            )
    return found


def policy_of(asked: Asked) -> Policy:
    return Policy(
        asked.command,
        asked.mode,
        delete_unknown=asked.delete_unknown,
        restore_deleted=asked.restore_deleted,
        resolve=asked.resolve,
        resolve_paths=tuple(Path(path.encode()) for path in asked.resolve_paths),
    )


@dataclass
class World:
    """Paths with the letters of their three states, and those that were dropped."""

    paths: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    def put(self, path: str, letters: str, *, dropped: bool = False) -> None:
        """One path, below ``n`` and below ``o``."""
        for top in ("n", "o"):
            self.paths[f"{top}/{path}"] = letters
            if dropped:
                self.dropped.add(f"{top}/{path}")

    def below(self, prefix: str) -> World:
        """A part of it."""
        paths = {p: letters for p, letters in self.paths.items() if p.startswith(prefix)}
        return World(paths, self.dropped & paths.keys())

    def as_oracle(self) -> tuple[Tree, Memory, Bucket]:
        tree, memory, bucket = Tree(), Memory(dropped=set(self.dropped)), {}
        for path, letters in self.paths.items():
            local, base, remote = tuple(letters)
            if local == "o":
                tree.special.add(path)
            elif local != "-":
                tree.files[path] = FILES[local]
            if base != "-":
                memory.base[path] = FILES[base].state
            if remote != "-":
                bucket[path] = FILES[remote]
        return tree, memory, bucket

    def triples(self) -> list[Triple]:
        """The rows that a plan is made of, without an index."""
        return sorted(
            Triple(Path(path.encode()), *map(state, letters)) for path, letters in self.paths.items()
        )

    def write(self, ws: Workspace) -> None:
        """Into the index, in an order that should not matter."""
        order = Random(1).sample(sorted(self.paths), len(self.paths))
        stat = Stat(1, 1, 1, 1, 0o100644)
        with ws.index.transaction():
            ws.index.put_local(
                (Path(p.encode()), None if self.paths[p][0] == "o" else stat, state(self.paths[p][0]), 1)
                for p in order
                if self.paths[p][0] != "-"
            )
            ws.index.set_base((Path(p.encode()), state(self.paths[p][1])) for p in order)
            ws.index.reflect_page(
                "page",
                [(Path(p.encode()), found) for p in order if (found := state(self.paths[p][2])) is not None],
            )
            ws.index.drop(Path(p.encode()) for p in order if p in self.dropped)


def is_first(letters: str) -> bool:
    """Whether the contents come as a, b, c: of those that differ only in their names, one is enough."""
    found = "".join(c for c in dict.fromkeys(letters) if c in "abc")
    return "abc".startswith(found)


def alone() -> World:
    """Every combination of three states of one path."""
    world = World()
    for letters in filter(is_first, map("".join, itertools.product("-abcxlo", "-abcxl", "-abcxl"))):
        world.put(f"{letters}/f", letters)
    for base, remote in itertools.product("-ab", "ab"):
        world.put(f"dropped-{base}{remote}/f", f"-{base}{remote}", dropped=True)
    for base, remote in itertools.product("-ab", "-ab"):
        world.put(f"git-{base}{remote}/f.py", f"-{base}{remote}")
    return world


def families(contents: str, *, also_left_out: bool = False) -> World:
    """Every combination of a path and one below it. No tree and no head has a file at both; a base can, when
    one of them was out of scope when the other was agreed on.

    Args:
        also_left_out: once more with what is in the bucket dropped here, and with a child that is git's.
    """
    world = World()

    def one_file(special: str) -> list[str]:
        return [f"{p}{c}" for p, c in itertools.product("-" + contents + special, repeat=2) if "-" in (p, c)]

    bases = ["".join(pair) for pair in itertools.product("-" + contents, repeat=2)]
    for local, base, remote in itertools.product(one_file("o"), bases, one_file("")):
        parent, child = (local[n] + base[n] + remote[n] for n in (0, 1))
        if not (is_first(parent) and is_first(child)):
            continue
        name = f"{local}{base}{remote}"
        world.put(f"{name}/p", parent)
        world.put(f"{name}/p/c.tmp", child)
        if not also_left_out:
            continue
        if remote != "--" and local[remote[0] == "-"] == "-":
            world.put(f"{name}-dropped/p", parent, dropped=remote[0] != "-")
            world.put(f"{name}-dropped/p/c.tmp", child, dropped=remote[1] != "-")
        if local[1] == "-":
            world.put(f"{name}-git/p", parent)
            world.put(f"{name}-git/p/c.py", child)
    return world


VERBS = {"U": "upload", "D": "download", "!": "conflict", "<": "settle", ">": "yield", "B": "both"}


def expected(outcome: Outcome, asked: Asked) -> dict[str, object]:
    delete = "delete" if asked.command == "push" else "trash"
    return {
        "actions": [f"{VERBS.get(letter, delete):<9} {path}" for letter, path in outcome.actions],
        "new": outcome.new,
        "changed": outcome.changed,
        "deleted": outcome.deleted,
        "unchanged": outcome.unchanged,
        "left": outcome.left,
        "conflicts": outcome.conflicts,
    }


@dataclass
class Bench:
    """A workspace whose index holds a world, and a head whose one page is reflected there already."""

    world: World
    ws: Workspace
    head: Head

    def check(self, asked: Asked, *, hidden: tuple[str, ...] = ()) -> None:
        """The plan is what the oracle says, line by line and number by number."""
        scope = Scope(
            tuple(Path(name.encode()) for name in asked.only), (asked.exclude,) if asked.exclude else ()
        )
        options = RunOptions(policy_of(asked), scope, dry_run=True, max_delete=str(ENDLESS))
        report = RunReport(asked.command, asked.mode, dry_run=True)
        observed = Observed(clock=0)
        for folder in hidden:
            observed.unseen.append(Path(folder.encode()))
            observed.skipped[Path(folder.encode())] = "permission denied"
        decision = decide(self.ws, self.head, options, observed, report)
        found = {
            "actions": report.actions,
            "new": report.new,
            "changed": report.changed,
            "deleted": report.deleted,
            "unchanged": report.unchanged,
            "left": {NUMBERS[Case(name)]: count for name, count in report.left.items()},
            "conflicts": [display(path) for path in report.conflicts],
        }
        outcome = oracle.predict(asked, *self.world.as_oracle(), hidden)
        if outcome.unchanged is None:
            found.pop("unchanged")
        for name, wanted in expected(outcome, asked).items():
            if name in found:
                assert found[name] == wanted, (asked, name, _first_difference(found[name], wanted))
        # What is carried out is read from the index once more: it must be what was announced.
        again = [display(row.path) for row in decision.rows(*ACTING)]
        assert again == [line.split(maxsplit=1)[1] for line in report.actions], asked


def _first_difference(one: object, other: object) -> object:
    if isinstance(one, list) and isinstance(other, list):
        return next(((x, y) for x, y in itertools.zip_longest(one, other) if x != y), None)
    return one, other


@pytest.fixture
def bench(fast_path: FsPath) -> Iterator[Callable[[World], Bench]]:
    with Machine(fast_path / "gpu", str(fast_path / "bucket")).project().workspace(()) as ws:
        head = observe.load_head(ws)

        def make(world: World) -> Bench:
            world.write(ws)
            remote = sorted(p.encode() for p, letters in world.paths.items() if letters[2] != "-")
            page = PageRef("page", "0-0", Path(remote[0]), Path(remote[-1]), len(remote), 0, 0, 0)
            return Bench(world, ws, replace(head, manifest=replace(head.manifest, pages=(page,))))

        yield make


def test_one_path_in_every_state_mode_and_resolution(bench: Callable[[World], Bench]) -> None:
    made = bench(alone())
    for asked in asked_for(("", ()), *SETTLED):
        made.check(asked)


def test_a_path_and_one_below_it(bench: Callable[[World], Bench]) -> None:
    made = bench(families("abc"))
    for asked in asked_for(("", ()), ("local", ("n",)), ("remote", ("n",)), ("both", ("n",))):
        made.check(asked)


def test_a_part_of_it_and_what_cannot_be_seen(bench: Callable[[World], Bench]) -> None:
    """What is out of scope, or out of sight, is in no case, but still bars the way to what is below it."""
    made = bench(families("abc", also_left_out=True))
    parents = tuple(p for p in made.world.paths if p.startswith("n/") and p.endswith("/p"))[::3]
    children = tuple(p for p in made.world.paths if p.startswith("n/") and p.endswith("/c.tmp"))[1::3]
    for asked in asked_for(("", ())):
        made.check(asked)
        made.check(replace(asked, only=("n",)))
        made.check(replace(asked, exclude="*.tmp"))
        made.check(asked, hidden=("n",))
    for asked in (Asked("push", "full", dry_run=True), Asked("pull", "full", dry_run=True)):
        for only in (parents, children):
            made.check(replace(asked, only=only, max_delete=ENDLESS, delete_unknown=True))


def test_the_size_of_a_batch_does_not_matter(
    bench: Callable[[World], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read some at a time, and a path and those below it may fall into different batches."""
    real = Index.drift
    monkeypatch.setattr(
        Index, "drift", lambda self, ranges, after=b"", among="all": real(self, ranges, after, 3, among)
    )
    made = bench(families("abc"))
    for command in ("push", "pull"):
        made.check(Asked(command, "full", dry_run=True, max_delete=ENDLESS, delete_unknown=True))


def test_a_plan_of_many_is_the_plans_of_each() -> None:
    """No path's verdict hangs on what else is planned with it, but for those above and below it."""
    world = families("abc")
    rows = world.triples()
    folders: dict[bytes, list[Triple]] = {}
    for row in rows:
        folders.setdefault(b"/".join(row.path.split(b"/")[:2]), []).append(row)
    for asked in asked_for(("", ())):
        policy = policy_of(asked)
        together = summarize(lambda: rows, policy)
        apart = [summarize(lambda some=some: some, policy) for some in folders.values()]  # type: ignore[misc]
        assert together.clashing == frozenset().union(*(each.clashing for each in apart))
        assert sorted(together.conflicts) == sorted(path for each in apart for path in each.conflicts)
        for verb in Verb:
            assert together.verbs.get(verb, 0) == sum(each.verbs.get(verb, 0) for each in apart), (
                asked,
                verb,
            )


def test_the_table_is_total() -> None:
    seen = {classify(*map(state, letters)) for letters in itertools.product("-abcxl", repeat=3)}
    assert seen == set(Case) - {Case.FILE_FOLDER}


def test_nothing_is_lost_that_nobody_gave_up() -> None:
    """P8, P9: what an option names may be given up. Else a side is written only if it still is what both
    agreed on, but for `pull --full`, which puts back what was edited here (the edit goes to the trash); and a
    conflict stays one."""
    for letters in itertools.product("-abcxlo", "-abcxl", "-abcxl"):
        local, base, remote = states = [state(letter) for letter in letters]
        case = classify(*states)
        row = Triple(Path(b"p"), *states)
        for asked in asked_for(("", ())):
            verb = policy_of(asked).decide(case, row)
            if verb in (Verb.UPLOAD, Verb.DELETE_REMOTE):
                unknown = asked.delete_unknown and local is None and base is None
                assert remote == base or unknown, (letters, asked)
            if verb in (Verb.DOWNLOAD, Verb.DELETE_LOCAL):
                unknown = asked.delete_unknown and remote is None and base is None
                put_back = asked.mode == "full" and remote == base
                assert local is None or local == base or unknown or put_back, (letters, asked)
            if case in CONFLICTS:
                assert verb is Verb.CONFLICT, (letters, asked)


def _write(world: Mapping[str, list[str]], machine: int, command: str, mode: str) -> int:
    """Plan and carry out; how many were written. Letters: local and base of each machine, then the bucket."""
    here, known = 2 * machine, 2 * machine + 1
    rows = sorted(
        Triple(Path(p.encode()), state(s[here]), state(s[known]), state(s[4])) for p, s in world.items()
    )
    policy = Policy(command, mode)
    summary = summarize(lambda: rows, policy)
    written = 0
    for action in iter_actions(rows, policy, summary.clashing):
        states = world[action.path.decode()]
        if action.verb in (Verb.UPLOAD, Verb.DELETE_REMOTE):
            states[4] = states[known] = states[here]
        elif action.verb in (Verb.DOWNLOAD, Verb.DELETE_LOCAL):
            states[here] = states[known] = states[4]
        elif action.verb is Verb.RECORD:
            states[known] = states[here]
        else:
            assert action.verb in (Verb.LEAVE, Verb.CONFLICT)
            continue
        written += action.verb is not Verb.RECORD
    for row in rows:
        states = world[row.path.decode()]
        folder = row.path.decode().rpartition("/")[0]
        for place in (here, 4):
            assert states[place] == "-" or world.get(folder, "-----")[place] == "-", (row, "a file in a file")
    return written


def _converge(world: dict[str, list[str]]) -> None:
    for _ in range(2):
        for machine in (0, 1):
            _write(world, machine, "push", "full")
            _write(world, machine, "pull", "full")
    before = {path: "".join(states) for path, states in world.items()}
    for machine in (0, 1):
        assert _write(world, machine, "push", "full") == 0
        assert _write(world, machine, "pull", "full") == 0
    assert before == {path: "".join(states) for path, states in world.items()}


def _open_conflicts(world: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for machine in (0, 1):
        rows = sorted(
            Triple(Path(p.encode()), state(s[2 * machine]), state(s[2 * machine + 1]), state(s[4]))
            for p, s in world.items()
        )
        for command in ("push", "pull"):
            summary = summarize(lambda rows=rows: rows, Policy(command, "full"))  # type: ignore[misc]
            found |= {path.decode() for path in summary.conflicts}
    return found


def test_two_machines_come_to_the_same() -> None:
    """P10 from every state of one path on two machines and in the bucket."""
    world = {f"{''.join(s)}/f": list(s) for s in itertools.product("-abc", repeat=5)}
    _converge(world)
    open_ = _open_conflicts(world)
    assert 0 < len(open_) < len(world)
    for path, states in world.items():
        assert path in open_ or len(set(states)) == 1, (path, states)


def test_two_machines_come_to_the_same_with_a_file_where_the_other_has_a_folder() -> None:
    """P10 from every state of a path and one below it: on two machines, in the bucket, and in the bases."""
    world: dict[str, list[str]] = {}
    sides = ["--", "a-", "b-", "-a", "-b"]
    for sides_of in itertools.product(sides, repeat=5):
        name = "".join(sides_of)
        world[f"{name}/p"] = [side[0] for side in sides_of]
        world[f"{name}/p/c"] = [side[1] for side in sides_of]
    _converge(world)
    open_ = {path.partition("/")[0] for path in _open_conflicts(world)}
    assert 0 < 2 * len(open_) < len(world)
    for path, states in world.items():
        assert path.partition("/")[0] in open_ or len(set(states)) == 1, (path, states)


def test_what_stands_afterwards_is_no_file_in_a_file() -> None:
    """Case 13, without the oracle: whatever is asked for."""
    rows = [row for row in families("abc").triples() if row.local != SPECIAL]
    for asked in asked_for(("", ()), ("local", ()), ("remote", ("n",)), ("both", ("o",))):
        policy = policy_of(asked)
        summary = summarize(lambda: rows, policy)
        verbs = {action.path: action.verb for action in iter_actions(rows, policy, summary.clashing)}
        after = {
            row.path for row in rows if present_after(row, verbs.get(row.path, Verb.NOTHING), asked.command)
        }
        assert not {path for path in after if path.rpartition(b"/")[0] in after}, asked
