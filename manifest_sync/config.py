"""`manifest-sync.toml`: find it, read it strictly, and write the first one."""

from __future__ import annotations

from manifest_sync.location import Location

__all__ = ["Location"]
