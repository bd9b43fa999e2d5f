"""Where credentials come from, that each way works on a real server, and that no secret gets out."""

from __future__ import annotations

from pathlib import Path

from tests.machines import Machine


def test_the_env_file_beside_the_configuration_never_goes_to_the_bucket(tmp_path: Path) -> None:
    """Not even where the whole project is the tree, whatever the rules say."""
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    config = gpu.folder / "manifest-sync.toml"
    text = config.read_text().replace('root = "experiments"', 'root = "."')
    config.write_text(text.replace('"git *.py"', '"git *.py", "bucket .env"'))
    (gpu.folder / ".env").write_text("R2_SECRET_ACCESS_KEY=hidden")
    (gpu.folder / "a.json").write_text("a")
    gpu.push("full")
    assert [entry.path for entry in gpu.project().ls()] == [b"a.json", b"manifest-sync.toml"]
    verdict = gpu.project().explain([".env"])[0].verdict
    assert (verdict.owner, verdict.rule) == ("neither", "neither /.env")
