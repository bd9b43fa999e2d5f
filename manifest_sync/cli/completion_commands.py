"""``completion``: the script that makes a shell complete commands, options, paths and snapshots."""

from __future__ import annotations

import click

from manifest_sync.cli.options import common_options, settings_of
from manifest_sync.cli.stdio import print_json, print_lines


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print what makes SHELL complete commands, options, paths and snapshots.

    For bash, in ~/.bashrc: eval "$(manifest-sync completion bash)". For zsh the same in ~/.zshrc, after
    compinit. For fish: manifest-sync completion fish > ~/.config/fish/completions/manifest-sync.fish
    """
    from manifest_sync.cli.complete import script  # noqa: PLC0415

    text = script(shell, ctx.find_root().command).strip("\n")
    if settings_of(ctx).json:
        print_json({"command": "completion", "shell": shell, "script": text})
    else:
        print_lines([text])
    return 0
