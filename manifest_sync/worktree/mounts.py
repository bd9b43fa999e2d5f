"""Which filesystem a folder lies on, from Linux's table of mounts. The parsing is pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

TABLE = "/proc/self/mountinfo"
_OCTAL = re.compile(rb"\\([0-7]{3})")
_NETWORK = frozenset(
    b"9p afs beegfs ceph cifs coda gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb3 smbfs vboxsf"
    b" virtiofs".split()
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted filesystem: its type (``ext4``, ``nfs4``, ``fuse.sshfs``), where, and from what."""

    kind: str
    where: str
    source: str

    @property
    def is_network(self) -> bool:
        """Whether other machines may write to it, or its server may be away."""
        return self.kind.encode() in _NETWORK

    @property
    def is_fuse(self) -> bool:
        """Whether a program, not the kernel, answers for it: remote ones are often mounted so."""
        return self.kind.startswith("fuse")


def mount_of(folder: str) -> Mount | None:
    """The filesystem that ``folder`` lies on; None where the system keeps no such table."""
    try:
        with open(TABLE, "rb") as file:
            table = file.read()
    except OSError:
        return None
    return find_mount(table, os.path.realpath(os.fsencode(folder)))


def find_mount(table: bytes, path: bytes) -> Mount | None:
    """The mount that ``path`` (absolute, no symlink in it) lies on, from the text of ``mountinfo``.

    The last line wins among equals: it is mounted over the others.
    """
    best: tuple[bytes, Mount] | None = None
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        fields, kinds = before.split(b" "), after.split(b" ")
        if len(fields) < 5 or len(kinds) < 2:
            continue
        where = _OCTAL.sub(lambda code: bytes([int(code[1], 8)]), fields[4])
        holds = where in (b"/", path) or path.startswith(where + b"/")
        if holds and (best is None or len(where) >= len(best[0])):
            best = where, Mount(os.fsdecode(kinds[0]), os.fsdecode(where), os.fsdecode(kinds[1]))
    return None if best is None else best[1]
