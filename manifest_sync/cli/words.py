"""Amounts as people write them."""


def human_size(count: int) -> str:
    """Bytes for people: ``999 B``, ``1.5 KiB``, ``20 MiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.5:
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{value / 1024:.1f} PiB"


def number(count: int) -> str:
    """``1,234``."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """``1 file``, ``1,234 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
