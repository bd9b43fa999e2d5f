"""What a command should do, said a second time: dictionaries, and the three-way table of the design.

This is the judge of the stateful and planner tests and knows nothing of the code under test: it imports
nothing from the package, and a test asserts that. A machine is a `Tree` and a base (path to state), the
bucket a dictionary from path to `File`; `predict` says what a push or a pull makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

State = tuple[bytes, bool]
"""What is compared between machines: the content and the executable bit."""
SPECIAL: State = (b"something that is never sent and never replaced", False)

TABLE = {
    # The states of local, base and bucket, named in the order of their first appearance, "-" for absent;
    # number of the case; what push does in the modes new, copy and full; what pull does.
    #   U upload   D download   X delete on the side that is written   = only record   ! conflict   . leave
    "aaa": (1, "   ", "   "),
    "a--": (2, "UUU", "..."),
    "abb": (3, ".UU", "..D"),
    "-aa": (4, "..X", "..D"),
    "--a": (5, "...", "DDD"),
    "aab": (6, "...", ".DD"),
    "aa-": (7, "...", "..X"),
    "aba": (8, "===", "==="),
    "a-a": (8, "===", "==="),
    "abc": (9, "!!!", "!!!"),
    "a-b": (9, "!!!", "!!!"),
    "-ab": (10, "!!!", "!!!"),
    "ab-": (11, "!!!", "!!!"),
    "-a-": (12, "===", "==="),
    "---": (1, "   ", "   "),
}
NEW = (2, 4, 5)
"""Cases that a report counts as new when they are moved; all others are changed."""
CONFLICTS = (9, 10, 11)
FILE_FOLDER = 13
MODES = ("new", "copy", "full")
DEFAULT_DELETIONS = 10
ALL_STEPS = "UDXB<>"


@dataclass(frozen=True)
class File:
    """A regular file with its permission bits and its mtime in nanoseconds."""

    content: bytes
    mode: int = 0o644
    mtime_ns: int = 0
    writer: tuple[str, str] = field(default=("", ""), compare=False)
    """In a bucket: the host that wrote it, and when."""

    @property
    def state(self) -> State:
        """What is compared."""
        return self.content, bool(self.mode & 0o100)


Bucket = dict[str, File]
Base = dict[str, State]


@dataclass(frozen=True)
class Step:
    """What a run did with one path: how it was and is, and the base with it."""

    before: File | None
    base: State | None
    after: File | None
    base_after: State | None
    is_kept: bool = True
    """Whether the trash has the file of before; ``drop`` keeps none."""
    is_special: bool = False
    """Whether something stood there all the time that is no file: only the base was changed."""
    was_dropped: bool = False
    """Whether it was absent because it had been dropped, which undoing the run must not make a deletion."""


Run = dict[str, Step]
"""What a pull, restore or drop did, for undo."""


@dataclass
class Memory:
    """What a machine remembers of what it and the bucket agreed on."""

    base: Base = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    """Paths whose local copies were given up: in no case for as long as they are absent."""
    runs: list[Run | None] = field(default_factory=list)
    """What can be undone, the last one last; None for a run of which it is not known what it came to."""

    def copy(self) -> Memory:
        """An independent copy."""
        return Memory(dict(self.base), set(self.dropped), list(self.runs))

    def set(self, path: str, state: State | None) -> None:
        """Change the base of one path."""
        if state is None:
            self.base.pop(path, None)
        else:
            self.base[path] = state

    def forget(self, path: str) -> None:
        """Know nothing of a path any more."""
        self.base.pop(path, None)
        self.dropped.discard(path)


@dataclass
class Tree:
    """What lies below a machine's root. ``folders`` are all folders, the empty ones too."""

    files: dict[str, File] = field(default_factory=dict)
    special: set[str] = field(default_factory=set)
    """Fifos and symlinks."""
    folders: set[str] = field(default_factory=set)

    def copy(self) -> Tree:
        """An independent copy."""
        return Tree(dict(self.files), set(self.special), set(self.folders))

    def put(self, path: str, file: File) -> None:
        """Write a file, making the folders above it."""
        self.files[path] = file
        self.folders.update(above(path))

    def remove(self, path: str, *, prune: bool = False) -> None:
        """Remove a file; with ``prune`` also the folders above it that are left empty."""
        del self.files[path]
        if prune:
            for folder in reversed(above(path)):
                if any(p.startswith(folder + "/") for p in (*self.files, *self.special, *self.folders)):
                    break
                self.folders.discard(folder)

    def make_room(self, path: str) -> bool:
        """Whether a pull can put a file at ``path``; an empty folder gives way, as in git it is nothing."""
        if path in self.folders and not any(
            p.startswith(path + "/") for p in (*self.files, *self.special, *self.folders)
        ):
            self.folders.discard(path)
        return not self.is_taken(path)

    def has(self, path: str) -> bool:
        """Whether a file or something special is at ``path``."""
        return path in self.files or path in self.special

    def is_taken(self, path: str) -> bool:
        """Whether no file can be made at ``path``: a folder stands there, or something that is none above."""
        return path in self.folders or any(p in self.files or p in self.special for p in above(path))


@dataclass(frozen=True, repr=False)
class Asked:
    """One push, pull or status, as a person types it."""

    command: str
    mode: str = "new"
    only: tuple[str, ...] = ()
    exclude: str = ""
    """One of `EXCLUDES`, or nothing."""
    delete_unknown: bool = False
    restore_deleted: bool = False
    resolve: str = ""
    resolve_paths: tuple[str, ...] = ()
    max_delete: int | None = None
    dry_run: bool = False

    def __repr__(self) -> str:
        """As it is written in a test, without what is as usual."""
        told = [
            f"{f.name}={value!r}"
            for f in fields(self)
            if f.name not in ("command", "mode") and (value := getattr(self, f.name)) != f.default
        ]
        return f"Asked({', '.join([repr(self.command), repr(self.mode), *told])})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints."""
        printer.text(repr(self))


@dataclass
class Outcome:
    """What a command leaves behind and says."""

    tree: Tree
    memory: Memory
    bucket: Bucket
    publishes: bool = False
    exit_code: int = 0
    new: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int | None = None
    """None where it is not said: folders that are excluded are not looked into."""
    left: dict[int, int] = field(default_factory=dict)
    """Number of a case to the number of its paths that the mode leaves undone."""
    conflicts: list[str] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    actions: list[tuple[str, str]] = field(default_factory=list)
    """Letter of the table, and path, in the order of the paths' bytes."""
    cases: dict[int, list[str]] = field(default_factory=dict)
    """``status``: the paths of each case."""
    dropped: int | None = 0
    """Paths in scope whose local copies were given up; None where one is here again, and is not looked at."""
    trashed: list[bytes] = field(default_factory=list)
    barred: set[str] = field(default_factory=set)
    """``pull``: paths whose change could not be made here; they are not counted."""


EXCLUDES: dict[str, Callable[[str], bool]] = {
    # gitignore patterns, and by hand what they match
    "d/": lambda path: "d" in path.split("/")[:-1],
    "/a": lambda path: path.split("/")[0] == "a",
    "*.tmp": lambda path: any(part.endswith(".tmp") for part in path.split("/")),
}


def above(path: str) -> list[str]:
    """The folders above a path, the highest first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def is_ours(path: str) -> bool:
    """The rules of the tests' configuration, by hand; none of their patterns needs more than this."""
    parts = path.split("/")
    if any(part.endswith((".py", ".md")) or part == "config.json" for part in parts):
        return False
    return "activations" not in parts[:-1]


def in_ranges(path: str, only: tuple[str, ...]) -> bool:
    """Whether ``--only`` takes a path."""
    return not only or any(path == name or path.startswith(name + "/") for name in only)


def in_scope(path: str, asked: Asked) -> bool:
    """Whether the command looks at a path."""
    if not in_ranges(path, asked.only):
        return False
    return not asked.exclude or not EXCLUDES[asked.exclude](path)


def by_bytes(path: str) -> bytes:
    """The order of paths."""
    return path.encode()


def pattern(local: State | None, base: State | None, bucket: State | None) -> str:
    """The three states as the table names them."""
    names: dict[State, str] = {}
    return "".join(
        "-" if state is None else names.setdefault(state, "abc"[len(names)])
        for state in (local, base, bucket)
    )


def case_of(local: State | None, base: State | None, bucket: State | None) -> int:
    """The number of the case."""
    return TABLE[pattern(local, base, bucket)][0]


def verdict(
    asked: Asked, path: str, local: State | None, base: State | None, bucket: State | None
) -> tuple[int, str]:
    """The case of one path by itself and what the command does with it.

    Besides the letters of the table: ``<`` takes the bucket's state as base (a conflict settled for this
    side), ``>`` the local one (settled for the bucket), ``B`` keeps both versions.
    """
    number, push, pull = TABLE[pattern(local, base, bucket)]
    letter = (push if asked.command == "push" else pull)[MODES.index(asked.mode)]
    if asked.resolve and _is_resolved(asked, path, number):
        return number, _resolution(asked, number, local, bucket)
    if asked.command == "push":
        if number == 5 and asked.delete_unknown:
            return number, "X"
    else:
        if number == 2 and asked.delete_unknown:
            return number, "X"
        if number == 4 and asked.restore_deleted:
            return number, "D"
    return number, letter


def _is_resolved(asked: Asked, path: str, number: int) -> bool:
    if not asked.resolve_paths:
        return number in CONFLICTS
    sides = () if asked.resolve == "both" else (6, 7)
    return in_ranges(path, asked.resolve_paths) and number in (*CONFLICTS, *sides)


def _resolution(asked: Asked, number: int, local: State | None, bucket: State | None) -> str:
    winner = asked.resolve
    if winner == "both":
        if number == 9:
            return "B"
        winner = "bucket" if local is None else "local"
    if asked.command == "push":
        if winner != "local":
            return ">"
        return "X" if local is None else "U"
    if winner == "local":
        return "<"
    return "X" if bucket is None else "D"


@dataclass(frozen=True)
class _Row:
    path: str
    local: State | None
    base: State | None
    bucket: State | None

    def standing(self, command: str) -> bool:
        """Whether the path is on the side that the command writes."""
        return (self.bucket if command == "push" else self.local) is not None


def local_states(tree: Tree, base: Mapping[str, State], bucket: Mapping[str, File]) -> dict[str, State]:
    """What is here, of what is ours. Something special counts where a file was or is expected."""
    found = {path: file.state for path, file in tree.files.items() if is_ours(path)}
    found.update({path: SPECIAL for path in tree.special if path in base or path in bucket})
    return found


def _rows(
    asked: Asked, tree: Tree, memory: Memory, bucket: Bucket, hidden: tuple[str, ...] = ()
) -> list[_Row]:
    base = memory.base
    local = local_states(tree, base, bucket)
    paths = {p for p in {*local, *base, *bucket} if is_ours(p) and in_scope(p, asked)}
    paths -= {p for p in memory.dropped if p not in tree.files}
    if hidden:
        paths = {p for p in paths if not in_ranges(p, hidden)}
    return [
        _Row(p, local.get(p), base.get(p), bucket[p].state if p in bucket else None)
        for p in sorted(paths, key=by_bytes)
    ]


def looked_at(asked: Asked, tree: Tree, memory: Memory, bucket: Bucket) -> list[Memory]:
    """The memory once a command has looked at both sides, as far as it concerns what was dropped: a path
    where a file is again is not dropped any more, one that the bucket has no more is forgotten. Where
    it hangs on how much the command looked at, both."""
    found = [memory.copy()]
    for path in sorted(memory.dropped):
        here, there = path in tree.files, path in bucket
        is_certain = not here or (there and in_scope(path, asked))
        outcomes = []
        for known in found:
            if here:
                again = known.copy()
                again.dropped.discard(path)
                outcomes.append(again)
            if here and not is_certain:
                outcomes.append(known)
            if not there:
                gone = known.copy()
                gone.forget(path)
                outcomes.append(gone)
            if not here and there:
                outcomes.append(known)
        found = outcomes
    return found


def agreed(asked: Asked, tree: Tree, memory: Memory, bucket: Bucket, hidden: tuple[str, ...] = ()) -> Memory:
    """The memory once what both sides have is recorded (cases 8 and 12), within the scope."""
    result = memory.copy()
    for row in _rows(asked, tree, memory, bucket, hidden):
        if row.local == row.bucket and row.local != SPECIAL:
            result.set(row.path, row.bucket)
    return result


def _nowhere(asked: Asked, tree: Tree, memory: Memory, bucket: Bucket) -> set[str]:
    """What was asked for by name and is neither here nor in the bucket, nor was it agreed on."""
    known = (*tree.files, *tree.special, *tree.folders, *memory.base, *memory.dropped, *bucket)
    return {name for name in asked.only if not in_any(known, name)}


def in_any(paths: Iterable[str], top: str) -> bool:
    """Whether one of ``paths`` is ``top`` or lies below it."""
    return any(path == top or path.startswith(top + "/") for path in paths)


def clashing(present: set[str]) -> set[str]:
    """Case 13: the paths that are folders of others, and those others."""
    found: set[str] = set()
    for path in present:
        for folder in above(path):
            if folder in present:
                found.update((folder, path))
    return found


def predict(
    asked: Asked,
    tree: Tree,
    memory: Memory,
    bucket: Bucket,
    hidden: tuple[str, ...] = (),
    steps: str = ALL_STEPS,
    *,
    unseen: Collection[str] = (),
) -> Outcome:
    """What a push, pull or status does.

    Args:
        memory: after `looked_at`.
        hidden: folders that cannot be seen into now (a symlink stands in their place): what is in them is
            in no case.
        steps: the letters of the table that are carried out; fewer for a command that is killed.
        unseen: files here that ``--exclude`` leaves out and that have never been looked at.
    """
    nowhere = _nowhere(asked, tree, memory, bucket) if asked.command != "status" else set[str]()
    memory = memory.copy() if asked.dry_run else agreed(asked, tree, memory, bucket, hidden)
    rows = _rows(asked, tree, memory, bucket, hidden)
    outcome = Outcome(tree.copy(), memory, dict(bucket))
    outcome.skipped.update(hidden, nowhere)
    if not asked.exclude:
        every = _rows(asked, tree, memory, bucket)
        outcome.unchanged = sum(row.local == row.base == row.bucket is not None for row in every)
    outcome.dropped = sum(in_ranges(p, asked.only) and p not in tree.files for p in memory.dropped)
    if any(p in tree.files and not in_scope(p, asked) for p in memory.dropped):
        outcome.dropped = None
    if asked.command == "status":
        _fill_cases(outcome, rows)
        return outcome

    verdicts = {row.path: verdict(asked, row.path, row.local, row.base, row.bucket) for row in rows}
    writes = asked.command == "push"
    here = local_states(tree, memory.base, bucket).keys() - set(unseen)
    present = (set(bucket) if writes else here) - set(verdicts)
    present |= {
        row.path
        for row in rows
        if (letter := verdicts[row.path][1]) in "UDB" or (letter != "X" and row.standing(asked.command))
    }
    for path in clashing(present) & set(verdicts):
        verdicts[path] = (FILE_FOLDER, "!")

    for row in rows:
        number, letter = verdicts[row.path]
        if letter in "UB" and row.local == SPECIAL and writes and not asked.dry_run:
            pass  # passed over
        elif letter in "UDB":
            if number in NEW:
                outcome.new += 1
            else:
                outcome.changed += 1
        elif letter == "X":
            outcome.deleted += 1
        elif letter == "!":
            outcome.conflicts.append(row.path)
        elif letter == ".":
            outcome.left[number] = outcome.left.get(number, 0) + 1
        if letter in "UDXB!<>":
            outcome.actions.append((letter, row.path))

    if outcome.deleted > _allowed_deletions(asked, tree, memory, bucket):
        if not asked.dry_run:
            return Outcome(tree.copy(), memory, dict(bucket), exit_code=8)
        outcome.exit_code = 8
        return outcome
    if not asked.dry_run:
        letters = {path: letter for path, (_, letter) in verdicts.items() if letter in steps}
        known = outcome.memory.copy()
        passed = _carry_out(asked, outcome, [row for row in rows if row.path in letters], letters)
        for number, letter in (verdicts[path] for path in outcome.barred):
            if letter == "X":
                outcome.deleted -= 1
            elif number in NEW:
                outcome.new -= 1
            else:
                outcome.changed -= 1
        if asked.command == "pull" and any(letter in "XDB<" for _, letter in verdicts.values()):
            is_known = steps == ALL_STEPS and not passed
            outcome.memory.runs.append(run_of(tree, known, outcome) if is_known else None)
    outcome.exit_code = 6 if outcome.conflicts else 3 if outcome.skipped else 0
    return outcome


def _fill_cases(outcome: Outcome, rows: list[_Row]) -> None:
    contested: set[str] = set()
    for row in rows:
        number = case_of(row.local, row.base, row.bucket)
        if number != 1:
            outcome.cases.setdefault(number, []).append(row.path)
        # What one side alone took away is a change of that side, not a quarrel.
        if number not in (4, 7) and (row.local is not None or row.bucket is not None):
            contested.add(row.path)
    found = clashing(contested)
    if found:
        outcome.cases[FILE_FOLDER] = sorted(found, key=by_bytes)


def _allowed_deletions(asked: Asked, tree: Tree, memory: Memory, bucket: Bucket) -> int:
    if asked.max_delete is not None:
        return asked.max_delete
    losing = bucket if asked.command == "push" else local_states(tree, memory.base, bucket)
    return max(DEFAULT_DELETIONS, sum(in_ranges(path, asked.only) for path in losing) // 2)


def _carry_out(asked: Asked, outcome: Outcome, rows: list[_Row], letters: dict[str, str]) -> set[str]:
    """Do it; the paths that had to be passed over."""
    told = {*outcome.conflicts, *outcome.skipped}
    if asked.command == "push":
        _carry_out_push(outcome, rows, letters)
    else:
        _carry_out_pull(outcome, rows, letters)
    for row in rows:
        if letters[row.path] == "<":
            outcome.memory.set(row.path, row.bucket)
        elif letters[row.path] == ">":
            outcome.memory.set(row.path, row.local)
    return {*outcome.conflicts, *outcome.skipped} - told


def _carry_out_push(outcome: Outcome, rows: list[_Row], letters: dict[str, str]) -> None:
    before = dict(outcome.bucket)
    for row in rows:
        letter = letters[row.path]
        if letter in "UB" and row.local == SPECIAL:
            outcome.skipped.add(row.path)
        elif letter in "UB":
            if letter == "B":
                copy = _copy_name(row.path, before[row.path], outcome)
                outcome.bucket[copy] = before[row.path]
            outcome.bucket[row.path] = outcome.tree.files[row.path]
            outcome.memory.set(row.path, row.local)
            outcome.publishes = True
        elif letter == "X":
            del outcome.bucket[row.path]
            outcome.memory.set(row.path, None)
            outcome.publishes = True


def _carry_out_pull(outcome: Outcome, rows: list[_Row], letters: dict[str, str]) -> None:
    tree = outcome.tree
    moved: list[str] = []
    for row in rows:
        if letters[row.path] != "X":
            continue
        if row.local == SPECIAL:
            moved.append(row.path)
            outcome.barred.add(row.path)
            continue
        outcome.trashed.append(tree.files[row.path].content)
        tree.remove(row.path, prune=True)
        outcome.memory.set(row.path, None)
    for row in rows:
        if letters[row.path] == "D":
            if _bring(outcome, row.path, outcome.bucket[row.path], moved):
                outcome.memory.set(row.path, row.bucket)
            else:
                outcome.barred.add(row.path)
    for row in rows:
        if letters[row.path] == "B":
            copy = _copy_name(row.path, outcome.bucket[row.path], outcome)
            if copy in tree.files or _bring(outcome, copy, outcome.bucket[row.path], moved):
                outcome.memory.set(row.path, row.bucket)
            else:
                outcome.barred.add(row.path)
    outcome.conflicts = sorted({*outcome.conflicts, *moved}, key=by_bytes)


def _bring(outcome: Outcome, path: str, file: File, moved: list[str]) -> bool:
    """Put a file of the bucket into the tree, if nothing bars its way."""
    tree = outcome.tree
    if path in tree.special:
        moved.append(path)
    elif not tree.make_room(path):
        outcome.skipped.add(path)
    else:
        if path in tree.files:
            outcome.trashed.append(tree.files[path].content)
        tree.put(path, file)
        return True
    return False


def _copy_name(path: str, file: File, outcome: Outcome) -> str:
    """Where the bucket's version of a conflict is kept: ``name.conflict-<host>-<time>.ext``. The same content
    under such a name, which an earlier run kept, is that copy, unless the bucket has something else there."""
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    host, time = file.writer
    mark = f".conflict-{host}-{time.replace('-', '').replace(':', '')}"
    tree, bucket = outcome.tree, outcome.bucket
    for number in range(100):
        candidate = f"{folder}{slash}{stem}{mark}{f'-{number}' if number else ''}{dot}{extension}"
        if candidate in tree.files:
            held = [tree.files[candidate], *([bucket[candidate]] if candidate in bucket else [])]
            if all(one.state == file.state for one in held):
                return candidate
            continue
        known = (tree.special, tree.folders, bucket, outcome.memory.base)
        if not any(candidate in place for place in known):
            return candidate
    raise AssertionError("a hundred conflicts of one version")


def run_of(before: Tree, memory: Memory, outcome: Outcome, *, is_kept: bool = True) -> Run:
    """The record of a command that ran to its end, from ``memory`` after what both sides had was recorded."""
    run: Run = {}
    for path in sorted({*before.files, *outcome.tree.files, *memory.base, *outcome.memory.base}):
        step = Step(
            before.files.get(path),
            memory.base.get(path),
            outcome.tree.files.get(path),
            outcome.memory.base.get(path),
            is_kept,
            path in before.special,
            path in memory.dropped and path not in before.files,
        )
        if (step.before, step.base) != (step.after, step.base_after):
            run[path] = step
    return run


def predict_drop(paths: tuple[str, ...], tree: Tree, memory: Memory, bucket: Bucket) -> Outcome:
    """What ``drop`` does: local copies that are the same in the bucket go, and are remembered."""
    asked = Asked("drop", only=paths)
    memory = agreed(asked, tree, memory, bucket)
    outcome = Outcome(tree.copy(), memory.copy(), dict(bucket))
    for row in _rows(asked, tree, memory, bucket):
        if row.local is None:
            continue
        if row.local == row.base == row.bucket:
            outcome.tree.remove(row.path, prune=True)
            outcome.memory.dropped.add(row.path)
            outcome.deleted += 1
        else:
            number = case_of(row.local, row.base, row.bucket)
            outcome.left[number] = outcome.left.get(number, 0) + 1
    if outcome.deleted:
        outcome.memory.runs.append(run_of(tree, memory, outcome, is_kept=False))
    elif not outcome.left:
        for path in paths:
            dropped = any(in_ranges(p, (path,)) and p not in tree.files for p in memory.dropped)
            if not dropped and not tree.has(path) and path not in tree.folders:
                outcome.exit_code = 2
    return outcome


def predict_restore(
    paths: tuple[str, ...], snapshot: Bucket, tree: Tree, memory: Memory, bucket: Bucket
) -> Outcome:
    """What ``restore PATH… --at SNAPSHOT`` does: the base stays, so that what it brings is a local edit."""
    outcome = Outcome(tree.copy(), memory.copy(), dict(bucket))
    wanted = [p for p in sorted(snapshot, key=by_bytes) if in_ranges(p, paths)]
    if any(not any(in_ranges(p, (path,)) for p in wanted) for path in paths):
        outcome.exit_code = 2
        return outcome
    moved: list[str] = []
    outcome.unchanged = 0
    here = local_states(tree, memory.base, bucket)
    unknown = sum(in_ranges(path, paths) and path not in snapshot for path in here)
    if unknown:
        outcome.left[2] = unknown
    brought = []
    for path in wanted:
        file = tree.files.get(path)
        if file is not None and file.state == snapshot[path].state:
            outcome.unchanged += 1
            continue
        brought.append(path)
    for path in brought:
        if _bring(outcome, path, snapshot[path], moved):
            outcome.memory.dropped.discard(path)
            if tree.has(path):
                outcome.changed += 1
            else:
                outcome.new += 1
    if brought:
        failed = moved or outcome.skipped
        outcome.memory.runs.append(None if failed else run_of(tree, memory, outcome))
    outcome.conflicts = moved
    outcome.exit_code = 6 if moved else 3 if outcome.skipped else 0
    return outcome


def predict_undo(tree: Tree, memory: Memory, bucket: Bucket) -> Outcome:
    """What ``undo`` does: each path that still is as the last run left it is as it was before."""
    outcome = Outcome(tree.copy(), memory.copy(), dict(bucket))
    run = memory.runs[-1] if memory.runs else None
    if run is None:
        outcome.exit_code = 1
        return outcome
    back: list[str] = []
    for path, step in sorted(run.items(), key=lambda item: by_bytes(item[0])):
        now = tree.files.get(path)
        state = now.state if now is not None else SPECIAL if path in tree.special else None
        before = step.before.state if step.before is not None else SPECIAL if step.is_special else None
        after = step.after.state if step.after is not None else SPECIAL if step.is_special else None
        if state == before:
            outcome.memory.set(path, step.base)
            if step.was_dropped:
                outcome.memory.dropped.add(path)
        elif state != after:
            if after is not None or (before is not None and step.is_kept):
                outcome.conflicts.append(path)
        elif step.before is None:
            outcome.trashed.append(tree.files[path].content)
            outcome.tree.remove(path, prune=True)
            outcome.memory.set(path, step.base)
            if step.was_dropped:
                outcome.memory.dropped.add(path)
            outcome.deleted += 1
        else:
            back.append(path)
    for path in back:
        moved: list[str] = []
        step = run[path]
        assert step.before is not None
        file = step.before
        if not step.is_kept:
            # It comes from the bucket, if that still is the same.
            if path not in bucket or bucket[path].state != step.before.state:
                outcome.skipped.add(path)
                continue
            file = bucket[path]
        if _bring(outcome, path, file, moved):
            outcome.memory.set(path, step.base)
            outcome.memory.dropped.discard(path)
            outcome.new += 1
        outcome.conflicts += moved
    outcome.conflicts.sort(key=by_bytes)
    if not outcome.conflicts and not outcome.skipped:
        outcome.memory.runs.pop()
    outcome.exit_code = 6 if outcome.conflicts else 3 if outcome.skipped else 0
    return outcome
