"""The beginning of a project: `manifest_sync.project` adds the commands of every day."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from manifest_sync.config import (
    CONFIG_NAME,
    DEFAULT_ROOT,
    PROPOSED_RULES,
    Config,
    Location,
    load_config,
    parse_config,
    render_config,
)
from manifest_sync.errors import UsageError
from manifest_sync.model import STATE_FOLDER
from manifest_sync.project_export import ProjectExport
from manifest_sync.report import Progress

if TYPE_CHECKING:
    from manifest_sync.initialize import InitReport
    from manifest_sync.proposal import Proposal


class ProjectStart(ProjectExport):
    """A project's folder with the commands that make it one."""

    @classmethod
    def init(
        cls,
        directory: str,
        bucket: str | None,
        *,
        root: str | None = None,
        endpoint_url: str | None = None,
        single_writer: bool = False,
        keys: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        accept: Callable[[Proposal], bool] | None = None,
    ) -> InitReport:
        """Make ``directory`` a project and its bucket a repository, or join the repository that is there.

        The configuration is written last, once the place has been tried; what fails leaves nothing here.

        Args:
            bucket: None for the one that the configuration in ``directory`` names.
            endpoint_url: None for ``R2_ENDPOINT``, if its keys are used; it is written down too.
            keys: variables for the ``.env`` there, written once they have proved good.
            accept: asked about the rules to be written, if they leave something out of the tree; False:
                none are written, and all but what git tracks is the bucket's.

        Raises:
            UsageError: the folder belongs to another bucket already.
            AccessDenied: there are no credentials, or they do not allow what is needed.
            ManifestSyncError: the store ignores conditions and ``single_writer`` was not asked for.
        """
        from manifest_sync.envfile import check_keepable, save_variables
        from manifest_sync.initialize import create_or_join, removed_on_failure
        from manifest_sync.ownfiles import write_whole

        config, text = _first_config(os.path.abspath(directory), bucket, root, endpoint_url)
        if keys:
            check_keepable(config.project_dir)
        env = {**(keys or {}), **(os.environ if env is None else env)}
        if text and not endpoint_url and config.bucket.startswith("s3://"):
            # R2_ENDPOINT is known here. Who has a key and no more would send it to another store, AWS.
            endpoint_url = cls(config, env=env).location().endpoint_url
            config, text = _first_config(config.project_dir, bucket, root, endpoint_url)
        with removed_on_failure(os.path.join(config.project_dir, STATE_FOLDER)):
            selected = cls(config, env=env, progress=progress).propose() if text else None
            if selected is not None and selected.left_out and accept is not None and not accept(selected):
                config, text = _first_config(config.project_dir, bucket, root, endpoint_url, rules=())
                selected = None
            with cls(config, env=env, progress=progress) as project:
                report = create_or_join(project, single_writer=single_writer)
            saved = save_variables(config.project_dir, keys) if keys else []
            if text:
                write_whole(os.path.join(config.project_dir, CONFIG_NAME), text)
        return replace(report, saved=tuple(saved), selected=selected)

    def propose(self) -> Proposal | None:
        """What this configuration's rules leave out of the tree, None without a tree. Reads only names."""
        from manifest_sync.proposal import propose

        if not os.path.isdir(self.root):
            return None
        ownership, _ = self._ownership()
        worktree = self._worktree()
        try:
            return propose(worktree, ownership)
        finally:
            worktree.close()

    @classmethod
    def locate(
        cls,
        directory: str,
        bucket: str | None,
        *,
        root: str | None = None,
        endpoint_url: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Location:
        """Where `init` would go with these arguments, with the credentials that are named there.

        Raises:
            UsageError: the bucket is named in a form that is not known, or the folder belongs to another.
        """
        config, _ = _first_config(os.path.abspath(directory), bucket, root, endpoint_url)
        return cls(config, env=os.environ if env is None else env).location()

    @staticmethod
    def finds_key(location: Location) -> bool:
        """Whether a key is found for a place, the AWS chain included, or none is needed there."""
        from manifest_sync.initialize import finds_key

        return finds_key(location)


def _first_config(
    directory: str,
    bucket: str | None,
    root: str | None,
    endpoint_url: str | None,
    rules: tuple[str, ...] = PROPOSED_RULES,
) -> tuple[Config, str]:
    """The configuration of ``directory``; the text to write where there is none, else ''."""
    path = os.path.join(directory, CONFIG_NAME)
    if not os.path.exists(path):
        if bucket is None:
            raise UsageError(
                f"there is no {CONFIG_NAME} in {directory}, and no bucket was named",
                "for example: `manifest-sync init s3://bucket/prefix`",
            )
        text = render_config(
            bucket=bucket, root=root or DEFAULT_ROOT, endpoint_url=endpoint_url or "", rules=rules
        )
        return parse_config(text, path), text
    config = load_config(directory)
    if bucket not in (None, config.bucket):
        raise UsageError(
            f"{path} already names the bucket {config.bucket}, not {bucket}",
            "edit that file, or run init in another folder",
        )
    return config, ""
