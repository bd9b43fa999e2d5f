"""Compare manifest-sync with what a user would pick instead: ``python3 benchmarks/compare.py [--quick]``.

Makes a virtual environment of its own with this checkout in it, and goes on in that with `benchmarks.runner`,
which gets the other tools, starts a server, and measures. `README.md` beside this file says what is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def own_environment(work: Path) -> Path:
    """The Python of a virtual environment with this checkout and what the benchmark needs."""
    folder = work / "own"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        print(f"installing this checkout into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[bench]"], check=True)
        done.touch()
    return python


def main() -> None:
    """Check the options, make the environment, and go on in it."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.options import parse_options  # noqa: PLC0415  this script's folder is not the package's

    options = parse_options(sys.argv[1:])
    python = own_environment(options.work)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    os.execve(python, [str(python), "-m", "benchmarks.runner", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
