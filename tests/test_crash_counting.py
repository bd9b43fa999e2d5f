"""That the crash suites miss nothing: what they count, seen by two other methods."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path as FsPath

import pytest

from tests.crash_hooks import Plan
from tests.crash_operations import OPERATIONS
from tests.crash_points import Operation, Subject, changes_something, copy_state, run_with, scratch

SYSCALLS = {  # what the kernel calls it: what the hooks call it
    "creat": "open", "open": "open", "openat": "open", "openat2": "open", "write": "write", "writev": "write",
    "pwrite64": "write", "pwritev": "write", "copy_file_range": "write", "sendfile": "write",
    "splice": "write", "mkdir": "mkdir", "mkdirat": "mkdir", "rmdir": "rmdir", "unlink": "unlink",
    "unlinkat": "unlink",
    "rename": "rename", "renameat": "rename", "renameat2": "rename", "link": "link", "linkat": "link",
    "symlink": "symlink", "symlinkat": "symlink", "mknod": "mknod", "mknodat": "mknod", "utime": "utime",
    "utimes": "utime", "futimesat": "utime", "utimensat": "utime", "chmod": "chmod", "fchmod": "chmod",
    "fchmodat": "chmod", "fchmodat2": "chmod", "chown": "chown", "fchown": "chown", "fchownat": "chown",
    "truncate": "truncate", "ftruncate": "truncate", "fallocate": "truncate", "fsync": "fsync",
    "fdatasync": "fsync", "syncfs": "syncfs", "sync": "sync", "setxattr": "xattr", "fsetxattr": "xattr",
}  # fmt: skip
HOOKS = {  # what the hooks call it, where that is not the same
    "pwrite": "write", "remove": "unlink", "replace": "rename", "renameat2": "rename", "fchmod": "chmod",
    "ftruncate": "truncate", "fdatasync": "fsync",
}  # fmt: skip
LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
AUDITED = {
    "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.remove": "unlink", "os.rename": "rename", "os.link": "link",
    "os.symlink": "symlink", "os.utime": "utime", "os.chmod": "chmod", "os.chown": "chown",
    "os.truncate": "truncate", "os.setxattr": "xattr", "os.removexattr": "xattr",
}  # fmt: skip
# The others are made of the same calls.
TRACED = ("push", "pull over edits", "drop", "gc", "rebuild", "init")
START = "/here-begins-the-run"

RUN = f"""
import os, sys
from manifest_sync.cli.main import main
from tests.crash_hooks import Plan, install
from tests.crash_points import load_everything
load_everything()
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
install(Plan(), log)
os.path.exists({START!r})
os._exit(main.main(sys.argv[2:], standalone_mode=False))
"""


BY_NAME = {operation.name: operation for operation in OPERATIONS}


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest) -> Iterator[tuple[Operation, FsPath]]:
    operation = BY_NAME[request.param]
    with scratch() as folder:
        (folder / "state").mkdir()
        operation.prepare(folder / "state")
        yield operation, folder


@pytest.mark.parametrize("prepared", BY_NAME, indirect=True)
def test_python_sees_no_change_that_is_not_counted(prepared: tuple[Operation, FsPath]) -> None:
    """The interpreter's own audit events, which know nothing of the hooks, as far as there are any."""
    operation, folder = prepared
    state = copy_state(folder / "state", folder / "audited")
    stream = os.memfd_create("audit")
    write = os.write

    def note(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = args
            assert isinstance(flags, int)
            is_new = not isinstance(path, int) and "__pycache__" not in str(path)
            if flags & (os.O_CREAT | os.O_TRUNC) and is_new:
                write(stream, b"open\n")
        elif event in AUDITED:
            write(stream, f"{AUDITED[event]}\n".encode())

    done = run_with(Plan(), state / "gpu", *operation.argv, audit=note)
    assert done.code == 0, done.err
    os.lseek(stream, 0, os.SEEK_SET)
    seen = Counter(os.read(stream, 1 << 20).decode().split())
    os.close(stream)
    names = (event.name for event in done.events if event.layer == "os" and event.name != "renameat2")
    counted = Counter(HOOKS.get(name, name) for name in names)
    assert seen == Counter({name: n for name, n in counted.items() if name in {"open", *AUDITED.values()}})
    assert seen


@pytest.mark.parametrize("prepared", TRACED, indirect=True)
@pytest.mark.skipif(shutil.which("strace") is None, reason="the command strace is not installed here")
def test_the_kernel_sees_no_change_that_is_not_counted(prepared: tuple[Operation, FsPath]) -> None:
    """Call for call, in the same order; SQLite's own only while one of its statements is under way."""
    operation, folder = prepared
    state = copy_state(folder / "state", folder / "traced")
    trace, log = folder / "trace", folder / "log"
    wanted = ",".join(f"?{name}" for name in ["stat", "newfstatat", *SYSCALLS])
    command = ["strace", "-f", "-y", "-s", "256", "-e", f"trace={wanted}", "-e", "signal=none"]
    done = subprocess.run(
        [*command, "-o", str(trace), sys.executable, "-c", RUN, str(log), *operation.argv],
        cwd=state / "gpu",
        env={**os.environ, "HOME": str(state), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("this machine does not permit tracing")
    assert done.returncode == 0, done.stderr
    seen, counted, layer = [], [], ""
    for name, rest in _lines_of(trace):
        if str(log) in rest and name == "write":
            layer, event = re.findall(r'\[\d+, \\"(\w+)\\", \\"([^\\]+)\\"', rest)[0]
            if layer == "os":
                counted.append(HOOKS.get(event, event))
        elif f"{state}" not in rest and "_FDCWD" in rest and '"/' in rest:
            continue  # outside of everything, such as a .pyc
        elif layer == "sql" and _is_sqlite(name, rest):
            continue
        else:
            seen.append("rmdir" if "AT_REMOVEDIR" in rest else SYSCALLS[name])
    assert seen == counted, [rest for _, rest in _lines_of(trace)]
    assert len(seen) > 5


def _lines_of(trace: FsPath) -> Iterator[tuple[str, str]]:
    """The calls that can change something, from the beginning of the run."""
    has_begun = False
    for line in trace.read_text("utf-8", "replace").splitlines():
        found = LINE.match(line)
        if found is None or "<unfinished" in line:
            assert "<unfinished" not in line, line
            continue
        name, rest = found.groups()
        has_begun = has_begun or START in rest
        if not has_begun or name not in SYSCALLS:
            continue
        if SYSCALLS[name] == "open" and "O_CREAT" not in rest and "O_TRUNC" not in rest and name != "creat":
            continue
        if name == "write" and re.match(r"[12]<", rest):
            continue
        yield name, rest


def _is_sqlite(name: str, rest: str) -> bool:
    """A call on the index or its journal, or for the journal's name in its folder."""
    on_file = re.search(r"/index\.sqlite(\.new)?(-journal)?[>\"]", rest) is not None
    return on_file or (name in ("fsync", "fdatasync") and "/.manifest-sync>" in rest)


def test_a_kill_leaves_hot_journals() -> None:
    """SQLite's small cache is of use: some kills leave a torn file that must be rolled back."""
    push = BY_NAME["push"]
    hot = 0
    with scratch() as folder:
        subject = Subject(push, folder)
        last = [event for event in subject.events if event.layer == "sql" and changes_something(event)][-16:]
        for event in last:
            with subject.copy() as state:
                run_with(Plan(event.number), state / "gpu", *push.argv)
                journal = state / "gpu/.manifest-sync/index.sqlite-journal"
                # The count of pages in the header is filled in when the journal is synced, before the
                # first page of the file is overwritten.
                hot += journal.exists() and any(journal.read_bytes()[8:12])
    assert hot >= 5
