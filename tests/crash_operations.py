"""The operations that the crash suites strike at, each with the state it finds."""

from __future__ import annotations

import os
import random
from pathlib import Path as FsPath

from tests.closure import folder_fetch, folder_objects, read_bucket
from tests.crash_points import CONFIG, Operation, run

OLD = 1_700_000_000_000_000_000
"""An mtime, ns: the contents of a state have times of their own, so that every run sees the same ones."""


def make_machine(state: FsPath, name: str) -> FsPath:
    folder = state / name
    (folder / "experiments").mkdir(parents=True)
    (folder / "manifest-sync.toml").write_text(CONFIG)
    succeed(folder, "init", "../bucket")
    return folder


def succeed(folder: FsPath, *argv: str) -> None:
    done = run(folder, *argv)
    assert done.code == 0, done.err


def write(machine: FsPath, path: str, content: str | bytes, *, mode: int = 0o644, age: int = 0) -> None:
    target = machine / "experiments" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(mode)
    when = OLD + age * 10**9
    os.utime(target, ns=(when, when))


def link(machine: FsPath, path: str, target: str) -> None:
    full = machine / "experiments" / path
    full.unlink(missing_ok=True)
    full.symlink_to(target)


def remove(machine: FsPath, path: str) -> None:
    (machine / "experiments" / path).unlink()


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress and are the same every time."""
    return random.Random(seed).randbytes(size)


BIG = noise(17, 1300 << 10)
"""Cut in two; both chunks are small, which is rare, and keeps the suite fast."""


def two_machines(state: FsPath) -> tuple[FsPath, FsPath]:
    """Both have the same tree, and the bucket as well."""
    gpu = make_machine(state, "gpu")
    for number in range(6):
        write(gpu, f"exp/{number}.json", f"{number}" * 300)
    write(gpu, "exp/empty", "")
    write(gpu, "exp/run.sh", "#!/bin/sh", mode=0o755)
    write(gpu, "exp/big.pt", BIG)
    write(gpu, "other/deep/er/a.json", "deep")
    write(gpu, "swap/file", "a file here, a folder there")
    write(gpu, "swap2/folder/in", "a folder here, a file there")
    link(gpu, "exp/latest", "0.json")
    link(gpu, "exp/gone", "nowhere")
    succeed(gpu, "push")
    laptop = make_machine(state, "laptop")
    succeed(laptop, "pull")
    return gpu, laptop


def change(machine: FsPath) -> None:
    """New, changed (also with the same size), deleted; big, empty, links, modes; file and folder swapped."""
    write(machine, "exp/new.json", "new" * 100, age=1)
    write(machine, "exp/new-empty", "", age=1)
    write(machine, "fresh/folder/new.json", "fresh", age=1)
    write(machine, "exp/1.json", "I" * 300, age=1)
    write(machine, "exp/empty", "no more", age=1)
    write(machine, "exp/2.json", "", age=1)
    write(machine, "exp/run.sh", "#!/bin/sh", mode=0o644)
    write(machine, "exp/big.pt", BIG[:-100_000] + noise(2, 200_000), age=1)
    remove(machine, "exp/3.json")
    remove(machine, "other/deep/er/a.json")
    for folder in ("other/deep/er", "other/deep", "other"):
        (machine / "experiments" / folder).rmdir()
    link(machine, "exp/latest", "1.json")
    remove(machine, "exp/gone")
    write(machine, "exp/gone", "a file where a link was", age=1)
    remove(machine, "swap/file")
    write(machine, "swap/file/in", "a folder now", age=1)
    remove(machine, "swap2/folder/in")
    (machine / "experiments/swap2/folder").rmdir()
    write(machine, "swap2/folder", "a file now", age=1)


def to_push(state: FsPath) -> None:
    gpu, _ = two_machines(state)
    change(gpu)


def to_pull(state: FsPath) -> None:
    """Everything changed in the bucket, and nothing here."""
    _, laptop = two_machines(state)
    change(laptop)
    succeed(laptop, "push", "--full")


def to_pull_over_edits(state: FsPath) -> None:
    """Everything changed in the bucket; here edits that nobody else has, which --full takes back."""
    gpu, laptop = two_machines(state)
    change(laptop)
    succeed(laptop, "push", "--full")
    write(gpu, "exp/0.json", "edited here", age=2)
    write(gpu, "exp/mine.json", "only here", age=2)
    remove(gpu, "exp/4.json")
    link(gpu, "exp/latest", "1.json")


def to_rebuild(state: FsPath) -> None:
    """Changes on both sides, none of them at the same path."""
    gpu, laptop = two_machines(state)
    write(laptop, "exp/there.json", "there", age=1)
    succeed(laptop, "push", "--full")
    write(gpu, "exp/mine.json", "only here", age=2)


def to_init(state: FsPath) -> None:
    """A tree, no configuration, and no repository."""
    write(state / "gpu", "exp/a.json", "a")


def to_join(state: FsPath) -> None:
    """A tree, no configuration, and a repository of another machine."""
    laptop = make_machine(state, "laptop")
    write(laptop, "exp/b.json", "b")
    succeed(laptop, "push")
    write(state / "gpu", "exp/a.json", "a")


def pulled_over_edits(state: FsPath) -> None:
    """A pull that replaced and deleted edits, to be undone: the run 1."""
    to_pull_over_edits(state)
    succeed(state / "gpu", "pull", "--full")


def in_sync(state: FsPath) -> None:
    """Everything agreed, and something here that is not in the bucket."""
    gpu, _ = two_machines(state)
    write(gpu, "exp/mine.json", "only here", age=2)


def two_snapshots(state: FsPath) -> None:
    """The tree is that of the second snapshot, with edits."""
    to_push(state)
    gpu = state / "gpu"
    succeed(gpu, "push", "--full")
    write(gpu, "exp/0.json", "edited here", age=2)
    write(gpu, "exp/mine.json", "only here", age=2)


def in_conflict(state: FsPath) -> None:
    """Both sides changed the same files."""
    gpu, laptop = two_machines(state)
    for machine in (laptop, gpu):
        write(machine, "exp/0.json", f"of {machine.name}", age=2)
        write(machine, "exp/run.sh", f"#!/bin/{machine.name}", mode=0o755, age=2)
        write(machine, "exp/1.json", f"of {machine.name}, gone there", age=2)
    remove(laptop, "exp/1.json")
    succeed(laptop, "push", "--full")


def with_garbage(state: FsPath) -> None:
    """Several snapshots, contents that only old ones hold, and packs of which little is alive."""
    gpu, laptop = two_machines(state)
    for turn in range(3):
        for number in range(4):
            write(gpu, f"exp/{number}.json", f"turn {turn} of {number}", age=turn)
        write(gpu, "exp/blob", noise(turn, 30_000), age=turn)
        write(gpu, f"exp/kept{turn}", noise(10 + turn, 2_000), age=turn)
        succeed(gpu, "push", "--full")
    succeed(laptop, "pull", "--full")


def check_collected(state: FsPath) -> None:
    """Nothing lies in the bucket that nothing refers to."""
    bucket = state / "bucket"
    reached = read_bucket(folder_fetch(bucket)).keys
    strays = [key for key in folder_objects(bucket) if key not in reached and not key.startswith("gc/")]
    assert strays == [], f"left in the bucket: {strays}"


PULL = ("pull", "--full")
GC = ("gc", "--apply", "--keep-last", "1", "--min-age", "0s")

OPERATIONS = (
    Operation("push", to_push, ("push", "--full")),
    Operation("pull over edits", to_pull_over_edits, PULL),
    # Half of a pull must never be taken for this machine's own changes.
    Operation("pull, then push", to_pull, PULL, (("push", "--full"), PULL)),
    Operation("undo a pull", pulled_over_edits, ("undo", "1")),
    Operation("restore", two_snapshots, ("restore", "exp", "--at", "1")),
    Operation("pull --at", two_snapshots, ("pull", "--full", "--at", "1")),
    Operation("keep both sides", in_conflict, ("pull", "--copy", "--resolve", "both")),
    Operation("drop", in_sync, ("drop", "exp", "other")),
    Operation("gc", with_garbage, GC, check=check_collected),
    Operation("pin", with_garbage, ("pin", "2", "--name", "paper")),
    Operation("empty the trash", pulled_over_edits, ("trash", "empty", "--sole"), keeps_trash=False),
    Operation("rebuild", to_rebuild, ("rebuild-index",)),
    Operation("init", to_init, ("init", "../bucket"), (("init", "../bucket"), ("push",))),
    Operation("join", to_join, ("init", "../bucket"), (("init", "../bucket"), ("push",))),
)
