"""Keep a big tree of experiment data the same on many machines and in one bucket.

>>> from manifest_sync import Project                       # doctest: +SKIP
>>> Project.find().push(mode="copy").to_json()["new"]       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from manifest_sync.project import Project

__all__ = ["Project", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when first used: `manifest-sync --help` must not pay for SQLite and the stores.
    if name == "Project":
        from manifest_sync.project import Project  # noqa: PLC0415

        return Project
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
