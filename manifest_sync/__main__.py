"""``python -m manifest_sync``: the same as the command ``manifest-sync``."""

from manifest_sync.cli.main import main

if __name__ == "__main__":
    main(prog_name="manifest-sync")
