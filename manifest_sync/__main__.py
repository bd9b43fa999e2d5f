"""``python -m manifest_sync``, and the command ``manifest-sync`` itself."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from manifest_sync.cli.main import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        # So early there is nothing yet that tells of errors.
        sys.stderr.write(
            "manifest-sync: interrupted: nothing was changed\n  run the same command again to carry on\n"
        )
        sys.exit(130)
    run(prog_name="manifest-sync")


if __name__ == "__main__":
    main()
