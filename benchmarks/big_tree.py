"""The 210,000-file tree through every step, timed: `python benchmarks/big_tree.py DIR [--files N] [--s3]`.

Each step is the real command in a process of its own; seconds are wall-clock, peak memory is the
process's largest resident set, requests are those that ``--json`` reports. With ``--s3`` the bucket is
on a SeaweedFS server that the script starts on loopback; otherwise it is a directory.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "manifest_sync"]
CONFIG = (
    'bucket = "{bucket}"\nroot = "experiments"\n{endpoint}[ownership]\ngit_tracked = false\nrules = {rules}\n'
)
RULES = ["git *.py", "git *.md", "git config.json", "neither **/activations/"]


def run(folder: Path, *args: str) -> tuple[dict[str, Any], float, int]:
    """Report, seconds, and peak memory in KiB of one command."""
    started = time.monotonic()
    with open(folder / "out.json", "w+b") as out:
        process = subprocess.Popen([*COMMAND, *args, "--json"], cwd=folder, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        out.seek(0)
        report = json.load(out)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{args}: exit {process.returncode}: {report}")
    return report, seconds, usage.ru_maxrss


def step(name: str, folder: Path, *args: str) -> dict[str, Any]:
    """Run one command and print its row."""
    report, seconds, peak = run(folder, *args)
    requests = ", ".join(f"{n} {kind}" for kind, n in sorted(report.get("requests", {}).items())) or "-"
    stored = report.get("stored_bytes", 0) / 1e6
    print(f"| {name} | {seconds:.1f} | {peak // 1024} | {requests} | {stored:.1f} |", flush=True)
    return report


def overwrite_same_size(root: Path) -> None:
    """Three files, same size, old mtime restored."""
    for path in sorted(root.glob("exp0[123]/inference/**/*.json"))[:3]:
        stat = path.stat()
        path.write_bytes(bytes(reversed(path.read_bytes())))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def compare(one: Path, other: Path) -> None:
    """Exit unless every file that is the bucket's is byte-identical in both trees."""
    count = 0
    for folder, folders, names in os.walk(one):
        folders[:] = [f for f in folders if f != "activations"]
        for name in names:
            if name.endswith((".py", ".md")) or name == "config.json":
                continue
            path = Path(folder) / name
            twin = other / path.relative_to(one)
            if not filecmp.cmp(path, twin, shallow=False):
                raise SystemExit(f"{path} and {twin} differ")
            if path.stat().st_mtime_ns != twin.stat().st_mtime_ns:
                raise SystemExit(f"{path} and {twin} have different times")
            count += 1
    print(f"\n{count} files are byte-identical in both trees, with equal times")


def main() -> None:
    """Make the tree if it is missing, and run the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=210_000)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    gpu, laptop = folder / "gpu", folder / "laptop"
    gpu.mkdir(parents=True)
    laptop.mkdir()
    maker = [sys.executable, str(HERE / "examples" / "make_tree.py"), str(gpu / "experiments")]
    subprocess.run([*maker, "--files", str(options.files), "--seed", "1"], check=True)
    with contextlib.ExitStack() as stack:
        bucket, endpoint = str(folder / "bucket"), ""
        if options.s3:
            sys.path.insert(0, str(HERE))
            from tests.servers import BUCKET, seaweedfs  # noqa: PLC0415

            (folder / "server").mkdir()
            server = stack.enter_context(seaweedfs(folder / "server", tls=False))
            bucket = f"s3://{BUCKET}/experiments"
            endpoint = f'endpoint_url = "{server.endpoint_url}"\n'
            os.environ.update(server.environment())
        for machine in (gpu, laptop):
            text = CONFIG.format(bucket=bucket, endpoint=endpoint, rules=json.dumps(RULES))
            (machine / "manifest-sync.toml").write_text(text)
            subprocess.run([*COMMAND, "init", bucket, "-q"], cwd=machine, check=True)
        print("\n| step | seconds | peak MiB | requests | MB stored |\n|---|---|---|---|---|")
        step("first push", gpu, "push")
        step("push, nothing to do", gpu, "push")
        overwrite_same_size(gpu / "experiments")
        drift = step("status, 3 files overwritten with the same size", gpu, "status")
        assert len(drift["cases"]["changed_here"]) == 3, drift
        step("push --copy of them", gpu, "push", "--copy")
        step("push, nothing to do, again", gpu, "push")
        step("fresh pull", laptop, "pull")
        step("push after it, nothing to do", laptop, "push")
        (laptop / ".manifest-sync" / "index.sqlite").unlink()
        step("rebuild-index", laptop, "rebuild-index")
        clean = step("status", laptop, "status")
        assert not clean["drift"], clean
    compare(gpu / "experiments", laptop / "experiments")


if __name__ == "__main__":
    main()
