"""The suite notices when a safety is switched off: each seeded bug of `mutations.py` makes its tests fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations import BY_NAME, MUTATIONS

ROOT = Path(__file__).parent.parent
FAILED = 1
"""pytest's exit code when tests ran and some failed; a mistake of the test itself gives another one."""


@pytest.mark.parametrize("name", BY_NAME)
def test_the_suite_notices(name: str, fast_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--mutation", name),
            *BY_NAME[name].tests,
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(fast_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FAILED, f"{name} was not noticed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"


def test_there_are_enough_of_them() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) >= 10
    assert len({mutation.promise for mutation in MUTATIONS}) >= 8
