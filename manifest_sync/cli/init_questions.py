"""What `init` asks a person on a terminal for, where it was not told: place, key, and folder.

Questions and complaints go to stderr. When an answer proves wrong all of them are asked again, with the
former ones as proposals.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import Settings
from manifest_sync.cli.stdio import print_error, write_stderr
from manifest_sync.envfile import hindrance
from manifest_sync.errors import ManifestSyncError, UsageError
from manifest_sync.project import Project

if TYPE_CHECKING:
    from manifest_sync.config import Location
    from manifest_sync.initialize import InitReport
    from manifest_sync.proposal import Proposal

_ROOTS = ("experiments", "data", "runs", "results", "outputs", "checkpoints")
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@dataclass(frozen=True, slots=True)
class Start:
    """What `init` is to be done with; None where it was not told. Never printed: ``keys`` holds a secret."""

    bucket: str | None
    root: str | None
    endpoint_url: str | None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    keep: bool = False
    """Whether ``keys`` go into the ``.env`` of the project."""


def may_ask(settings: Settings) -> bool:
    """Whether a person is there to answer: never in a pipe, nor for a program that reads JSON."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return not (settings.json or settings.quiet) and all(stream.isatty() for stream in streams)


def accept_rules(proposal: Proposal) -> bool:
    """Show what the rules to be written leave out of the tree here, and ask whether that is meant."""
    write_stderr("Rules are proposed that leave out of the bucket what is git's or can be made again:")
    for one in proposal.left_out:
        write_stderr(f"  {one.rule:<28} {one.describe()}")
    many = proposal.bucket_files != 1
    write_stderr(f"{proposal.bucket_files:,} file{'s are' if many else ' is'} the bucket's.")
    return click.confirm("Write these rules to manifest-sync.toml? (n: none)", default=True, err=True)


def ask_and_start(
    directory: str, start: Start, env: Mapping[str, str], run: Callable[[Start], InitReport]
) -> tuple[InitReport, Start]:
    """Ask for what ``start`` leaves out and is needed, and run `init`, until that succeeds.

    Args:
        run: does it; nothing is left behind where it raises.

    Raises:
        ManifestSyncError: it failed, and no answer was at fault.
        click.Abort: Ctrl-C or the end of the input.
    """
    questions = _Questions(directory, start, env)
    while True:
        answers = questions.complete()
        try:
            return run(answers), answers
        except ManifestSyncError as error:
            if not questions.asked:
                raise
            print_error(error)
            write_stderr("Enter keeps an answer, Ctrl-C leaves everything as it was.")


class _Questions:
    def __init__(self, directory: str, start: Start, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._given = start
        self._answers = start
        self._env = env
        self._has_config = os.path.exists(os.path.join(directory, "manifest-sync.toml"))
        self._in_chain: bool | None = None
        self._must_keep: bool | None = None
        self.asked: set[str] = set()

    def complete(self) -> Start:
        """Ask for everything that was not given, again too."""
        if self._given.bucket is None and not self._has_config:
            self._ask_bucket()
        location = self._locate(self._answers)
        if location.scheme == "s3":
            if self._lacks_endpoint(location):
                self._ask_endpoint()
            if "key" in self.asked or not self._finds_key(self._locate(self._answers)):
                self._ask_key()
        if "bucket" in self.asked and self._given.root is None:
            self._ask_root()
        return self._answers

    def _locate(self, answers: Start) -> Location:
        return Project.locate(
            self._directory,
            answers.bucket,
            root=answers.root,
            endpoint_url=answers.endpoint_url,
            env={**answers.keys, **self._env},
        )

    def _finds_key(self, location: Location) -> bool:
        if location.access_key:
            return True
        if self._in_chain is None:
            # Once: where there is none, the chain asks the network for an instance's role.
            self._in_chain = Project.finds_key(location)
        return self._in_chain

    def _ask(self, name: str, text: str, default: str | None, take: Callable[[str], Start]) -> None:
        """One question, until its answer has a form that can be used."""
        self.asked.add(name)
        while True:
            answer = click.prompt(text, default=default, err=True, show_default=bool(default)).strip()
            try:
                found = take(answer)
                self._locate(found)
            except UsageError as error:
                print_error(error)
                continue
            self._answers = found
            return

    def _ask_bucket(self) -> None:
        if not self.asked:
            write_stderr(f"{self._directory} becomes a project. Where is its data kept?")
            write_stderr("  s3://BUCKET/PREFIX, REMOTE:BUCKET/PREFIX of your rclone.conf, or a folder")

        def take(answer: str) -> Start:
            is_bare = "/" not in answer and ":" not in answer
            if is_bare and not os.path.isdir(os.path.join(self._directory, answer)):
                raise UsageError(f"there is no folder {answer!r} here", f"for a bucket: s3://{answer}/PREFIX")
            return replace(self._answers, bucket=answer)

        self._ask("bucket", "Bucket", self._answers.bucket, take)

    def _lacks_endpoint(self, location: Location) -> bool:
        """Whether to ask for it: not where a key was found for a bucket that was named."""
        return "endpoint" in self.asked or (
            not location.endpoint_url
            and not self._has_config
            and (self._answers.bucket or "").startswith("s3://")
            and not any(self._env.get(name) for name in _ENDPOINTS)
            and ("bucket" in self.asked or not self._finds_key(location))
        )

    def _ask_endpoint(self) -> None:
        def take(answer: str) -> Start:
            if answer and "://" not in answer:
                answer = f"https://{answer}"
            return replace(self._answers, endpoint_url=answer or None)

        self._ask(
            "endpoint",
            "Endpoint, such as https://ACCOUNT.r2.cloudflarestorage.com (Enter: AWS)",
            self._answers.endpoint_url or "",
            take,
        )

    def _ask_key(self) -> None:
        place = self._locate(replace(self._answers, keys={}))
        if "key" not in self.asked:
            write_stderr(f"No key was found for {place}.")
        self.asked.add("key")
        former = self._answers.keys
        key = click.prompt("Access key id", default=former.get("R2_ACCESS_KEY_ID"), err=True).strip()
        secret = click.prompt(
            "Secret access key (it is not shown)",
            default=former.get("R2_SECRET_ACCESS_KEY"),
            show_default=False,
            hide_input=True,
            err=True,
        ).strip()
        keys = {"R2_ACCESS_KEY_ID": key, "R2_SECRET_ACCESS_KEY": secret}
        if place.endpoint_url:
            keys["R2_ENDPOINT"] = place.endpoint_url
        self._answers = replace(self._answers, keys=keys)
        found = self._locate(self._answers)
        if (found.access_key, found.secret_key) != (key, secret):
            raise UsageError(
                "R2_* variables in the environment win over what was answered",
                "unset R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_ENDPOINT, or set all three",
            )
        if self._must_keep is None:
            self._must_keep = self._ask_keep()
        self._answers = replace(self._answers, keep=self._must_keep)

    def _ask_keep(self) -> bool:
        reason = hindrance(self._directory)
        if reason:
            write_stderr(f"The key is not kept: {reason}.")
            return False
        return click.confirm(
            "Keep it in .env here, readable for you only and ignored by git?", default=True, err=True
        )

    def _ask_root(self) -> None:
        there = (name for name in _ROOTS if os.path.isdir(os.path.join(self._directory, name)))
        proposed = self._answers.root or next(there, _ROOTS[0])
        self._ask(
            "root", "Folder that is kept in it", proposed, lambda answer: replace(self._answers, root=answer)
        )
