"""Run one command and write down what it took: ``python launch.py RESULT COMMAND…``.

A script of its own, because the peak memory that the kernel reports for a child includes what its parent had
in memory when it was started (`getrusage` keeps the largest resident set across an ``execve``): only a small
parent measures a small child. RESULT gets one JSON object: ``exit`` (code, or minus the signal), ``seconds``
(wall clock), ``cpu`` (user and system seconds, of all processes of the command that were waited for) and
``peak`` (bytes, of its largest process). With ``--timeout SECONDS`` before RESULT the command is ended after
that time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> None:
    """Start the command in a session of its own, wait for it, and write the result."""
    arguments = sys.argv[1:]
    limit = 0.0
    if arguments[0] == "--timeout":
        limit, arguments = float(arguments[1]), arguments[2:]
    result, command = arguments[0], arguments[1:]
    started = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        _, status, usage = os.wait4(child, 0)
    except BaseException:
        os.killpg(child, signal.SIGKILL)  # it is in a group of its own, so Ctrl-C did not reach it
        raise
    seconds = time.monotonic() - started
    found = {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    with open(result, "w", encoding="ascii") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
