"""A training run: what `watch` is for. It writes checkpoints and logs, and a ledger of every state that it
would call complete: a line of path and BLAKE3 for each, outside the tree.

Run as ``python -m tests.training_run ROOT LEDGER SECONDS PAUSE``; no write pauses longer than PAUSE.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from blake3 import blake3

PARTS = 6


class Run:
    """One run below ``root``."""

    def __init__(self, root: Path, ledger: Path, pause: float) -> None:
        self._root = root / "run"
        self._pause = pause
        self._dice = random.Random(7)
        self._log_hash = blake3()
        self._root.mkdir(parents=True, exist_ok=True)
        self._log = (self._root / "log.jsonl").open("w")
        self._ledger = ledger.open("w")

    def train(self, seconds: float) -> None:
        """Epochs until the time is over; the last is finished."""
        end = time.monotonic() + seconds
        epoch = 0
        while time.monotonic() < end:
            self._write_slowly("last.pt", in_place=True)
            self._write_slowly(f"step{epoch:03}.pt", in_place=False)
            self._write_whole(f"results/{epoch:03}.json", json.dumps({"epoch": epoch}).encode())
            # Rest: what is complete now can be sent before it is written over.
            for _ in range(12):
                self._step()
            epoch += 1
        self._log.close()
        self._ledger.close()

    def _write_slowly(self, name: str, *, in_place: bool) -> None:
        """Part by part, with pauses; over the old file, or beside it and then renamed into its place."""
        content = self._dice.randbytes(PARTS * self._dice.randrange(20_000, 300_000))
        target = self._root / name
        path = target if in_place else target.with_name(f"{name}.tmp")
        with path.open("wb") as file:
            size = len(content) // PARTS
            for part in range(PARTS):
                file.write(content[part * size : (part + 1) * size])
                file.flush()
                if part < PARTS - 1:
                    self._step()
            self._complete(name, blake3(content).hexdigest())
        if not in_place:
            # Under the other name it is as complete.
            self._complete(f"{name}.tmp", blake3(content).hexdigest())
            path.rename(target)

    def _write_whole(self, name: str, content: bytes) -> None:
        target = self._root / name
        target.parent.mkdir(exist_ok=True)
        self._complete(name, blake3(content).hexdigest())
        target.write_bytes(content)

    def _step(self) -> None:
        line = json.dumps({"loss": self._dice.random(), "text": "x" * 200}) + "\n"
        self._log_hash.update(line.encode())
        self._complete("log.jsonl", self._log_hash.hexdigest())
        self._log.write(line)
        self._log.flush()
        time.sleep(self._pause)

    def _complete(self, name: str, digest: str) -> None:
        """Written down before the last byte of it is there, so that no state is missing in the ledger."""
        self._ledger.write(f"run/{name} {digest}\n")
        self._ledger.flush()


if __name__ == "__main__":
    Run(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[4])).train(float(sys.argv[3]))
