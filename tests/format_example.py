"""The worked example of docs/format.md, made by the code. ``python tests/format_example.py`` prints it."""

from __future__ import annotations

from manifest_sync.canonical import compress, hash_bytes
from manifest_sync.manifest import Manifest, encode_manifest
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, PackRef, Path, Writer
from manifest_sync.pack import PackBuilder, encode_frame
from manifest_sync.pages import PageRef, encode_page

SESSION = "0-000102030405060708090a0b0c0d0e0f"


def pack() -> tuple[str, bytes]:
    """A pack with one raw frame of two chunks."""
    builder = PackBuilder()
    one, two = b"hello\n", b"world\n"
    builder.add_frame(encode_frame(one + two), 12, [(hash_bytes(one), 0, 6), (hash_bytes(two), 6, 6)])
    return builder.finish()


def entries() -> list[Entry]:
    """Two files in the pack and a symlink whose name is not UTF-8."""
    pack_id, body = pack()
    frame = FrameRef(PackRef(SESSION, pack_id, len(body)), 0, 12, 12)
    writer = Writer("6f1b1c4e-5a0f-4a58-9d3e-3f7f3a2b1c00", "gpu-01", "2026-01-02T03:04:05Z")
    made = [
        Entry(
            Path(name),
            EntryType.FILE,
            6,
            1767323045000000000,
            mode,
            hash_bytes(data),
            writer,
            (ChunkRef(hash_bytes(data), frame, offset, 6),),
        )
        for name, data, offset, mode in [
            (b"run/a.txt", b"hello\n", 0, 0o644),
            (b"run/b.sh", b"world\n", 6, 0o755),
        ]
    ]
    link = Entry(
        Path(b"run/\xff"), EntryType.SYMLINK, 5, 0, 0o777, hash_bytes(b"a.txt"), writer, (), b"a.txt"
    )
    return [*made, link]


def manifest() -> Manifest:
    """The head that lists the page."""
    page_id, raw = encode_page(entries())
    # The length of the compressed page is fixed here: it may differ between versions of zstd.
    assert len(compress(raw)) < len(raw)
    ref = PageRef(page_id, SESSION, Path(b"run/a.txt"), Path(b"run/\xff"), 3, 17, len(raw), 400)
    return Manifest(
        repository="0f0e0d0c-0b0a-4908-8706-050403020100",
        snapshot="202122232425262728292a2b2c2d2e2f",
        parent="101112131415161718191a1b1c1d1e1f",
        ancestors=("101112131415161718191a1b1c1d1e1f",),
        sequence=1,
        time="2026-01-02T03:04:05Z",
        machine="6f1b1c4e-5a0f-4a58-9d3e-3f7f3a2b1c00",
        host="gpu-01",
        message="first run",
        writer="0.1.0",
        files=3,
        bytes=17,
        stored_bytes=len(pack()[1]),
        pages=(ref,),
    )


def sections() -> list[str]:
    """The blocks that the document must contain, each as it stands there."""
    pack_id, body = pack()
    dump = "\n".join(f"{at:04x}  {body[at : at + 16].hex(' ')}" for at in range(0, len(body), 16))
    page_id, raw = encode_page(entries())
    return [
        f"{dump}\npack id {pack_id}",
        f"{raw.decode()}\npage id {page_id}",
        encode_manifest(manifest()).decode(),
    ]


if __name__ == "__main__":
    print("\n\n".join(f"```\n{section.rstrip()}\n```" for section in sections()))
