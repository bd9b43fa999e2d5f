"""Where credentials come from, that each way works on a real server, and that no secret gets out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from manifest_sync.cli.main import main
from manifest_sync.project import Project
from manifest_sync.stores.inspect import identify
from tests.machines import Machine
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without any key; the home folder."""
    for name in [
        name for name in os.environ if name.startswith(("AWS_", "R2_", "RCLONE_", "MANIFEST_SYNC_"))
    ]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".config" / "rclone").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


class Place:
    """A folder with a configuration for a repository on the server, and the user's files around it."""

    def __init__(self, home: Path, server: S3Server, prefix: str) -> None:
        self.home = home
        self.endpoint = server.endpoint_url
        self.prefix = prefix
        self.folder = home / "project"
        self.folder.mkdir()

    def configure(self, bucket: str = "", *, endpoint: bool = False) -> None:
        line = f'endpoint_url = "{self.endpoint}"\n' if endpoint else ""
        text = (
            f'bucket = "{bucket or f"s3://{BUCKET}/{self.prefix}"}"\n{line}[ownership]\ngit_tracked = false\n'
        )
        (self.folder / "manifest-sync.toml").write_text(text)

    def dotenv(self, *lines: str) -> None:
        (self.folder / ".env").write_text("\n".join(lines))

    def aws(self, config: str, credentials: str = "") -> None:
        (self.home / ".aws" / "config").write_text(config)
        (self.home / ".aws" / "credentials").write_text(credentials)

    def rclone(self, text: str) -> None:
        (self.home / ".config" / "rclone" / "rclone.conf").write_text(text)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, seaweed_http: S3Server) -> str:
    """The prefix of a repository."""
    prefix = f"ways-{os.getpid()}"
    machine = Machine(
        tmp_path_factory.mktemp("ways") / "m", f"s3://{BUCKET}/{prefix}", env=seaweed_http.r2_environment()
    )
    machine.write("a.json", "a")
    machine.push()
    return prefix


@pytest.fixture
def place(bare: Path, seaweed_http: S3Server, filled: str) -> Place:
    return Place(bare, seaweed_http, filled)


AWS_KEYS = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
RCLONE_KEYS = f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n"


def r2_variables(place: Place, set_: Callable[[str, str], None]) -> str:
    place.configure()
    set_("R2_ACCESS_KEY_ID", ACCESS_KEY)
    set_("R2_SECRET_ACCESS_KEY", SECRET_KEY)
    set_("R2_ENDPOINT", f"{place.endpoint}/{BUCKET}/")
    return "R2_ACCESS_KEY_ID"


def r2_dotenv(place: Place, _: Callable[[str, str], None]) -> str:
    place.configure()
    place.dotenv(
        "# keys", f"export R2_ACCESS_KEY_ID='{ACCESS_KEY}'", f'R2_SECRET_ACCESS_KEY="{SECRET_KEY}"',
        f"R2_ENDPOINT={place.endpoint} # the lab's",
    )  # fmt: skip
    return "R2_ACCESS_KEY_ID"


def r2_over_the_chain(place: Place, set_: Callable[[str, str], None]) -> str:
    """The keys in `.env` win over the AWS variables, which are another account's here."""
    set_("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    set_("AWS_SECRET_ACCESS_KEY", "other")
    return r2_dotenv(place, set_)


def r2_of_another_store(place: Place, set_: Callable[[str, str], None]) -> str:
    """Keys that belong to another endpoint than the configured one are not sent to it."""
    place.configure(endpoint=True)
    place.dotenv("R2_ACCESS_KEY_ID=AKOTHER", "R2_SECRET_ACCESS_KEY=other", "R2_ENDPOINT=https://r2.invalid")
    set_("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    set_("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return "env"


def variables_over_dotenv(place: Place, set_: Callable[[str, str], None]) -> str:
    place.configure()
    place.dotenv("R2_ACCESS_KEY_ID=AKOTHER", "R2_SECRET_ACCESS_KEY=other", "R2_ENDPOINT=https://r2.invalid")
    return r2_variables(place, set_)


def aws_variables(place: Place, set_: Callable[[str, str], None]) -> str:
    place.configure()
    set_("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    set_("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    set_("AWS_ENDPOINT_URL_S3", place.endpoint)
    return "env"


def aws_profile(place: Place, set_: Callable[[str, str], None]) -> str:
    place.configure()
    place.aws(f"[profile lab]\nregion = us-east-1\nendpoint_url = {place.endpoint}\n", f"[lab]\n{AWS_KEYS}")
    set_("AWS_PROFILE", "lab")
    return "shared-credentials-file"


def aws_default_profile(place: Place, _: Callable[[str, str], None]) -> str:
    place.configure(endpoint=True)
    place.aws(f"[default]\n{AWS_KEYS}endpoint_url = https://configured-endpoint-wins.invalid\n")
    return "config-file"


def aws_process(place: Place, _: Callable[[str, str], None]) -> str:
    place.configure(endpoint=True)
    answer = f'{{"Version": 1, "AccessKeyId": "{ACCESS_KEY}", "SecretAccessKey": "{SECRET_KEY}"}}'
    (place.home / "key.json").write_text(answer)
    place.aws(f"[default]\ncredential_process = cat {place.home / 'key.json'}\n")
    return "custom-process"


def rclone_remote(place: Place, set_: Callable[[str, str], None]) -> str:
    """The remote's own keys, also where R2_* are another's."""
    set_("R2_ACCESS_KEY_ID", "AKOTHER")
    set_("R2_SECRET_ACCESS_KEY", "other")
    place.configure(f"lab:{BUCKET}/{place.prefix}")
    place.rclone(
        f"[lab]\ntype = s3\nprovider = Cloudflare\n{RCLONE_KEYS}endpoint = {place.endpoint}\nacl = private\n"
        "region = auto\nno_check_bucket = true\n"
    )
    return "rclone.conf"


def rclone_env_auth(place: Place, set_: Callable[[str, str], None]) -> str:
    place.configure(f"lab:{BUCKET}/{place.prefix}")
    place.rclone(f"[lab]\ntype = s3\nprovider = Other\nenv_auth = true\nendpoint = {place.endpoint}\n")
    set_("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    set_("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return "env"


def rclone_profile(place: Place, _: Callable[[str, str], None]) -> str:
    place.configure(f"lab:{BUCKET}/{place.prefix}")
    place.rclone(f"[lab]\ntype = s3\nenv_auth = true\nprofile = other\nendpoint = {place.endpoint}\n")
    place.aws("", f"[other]\n{AWS_KEYS}")
    return "shared-credentials-file"


WAYS = [
    r2_variables, r2_dotenv, r2_over_the_chain, r2_of_another_store, variables_over_dotenv, aws_variables,
    aws_profile, aws_default_profile, aws_process, rclone_remote, rclone_env_auth, rclone_profile,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_reaches_the_bucket(
    way: Callable[[Place, Callable[[str, str], None]], str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = way(place, monkeypatch.setenv)
    with Project.find(str(place.folder)) as project:
        assert source in identify(project.location())
        assert [entry.path for entry in project.ls()] == [b"a.json"]


def test_a_clone_with_nothing_but_a_key_asks_the_same_store(place: Place, tmp_path: Path) -> None:
    """Where a project was made with R2_ENDPOINT, or the key would go to AWS."""
    keys = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}
    bucket = f"s3://{BUCKET}/clone-{os.getpid()}"
    made = tmp_path / "made"
    made.mkdir()
    Project.init(str(made), bucket, env={**keys, "R2_ENDPOINT": f"{place.endpoint}/{BUCKET}/"})
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "manifest-sync.toml").write_text((made / "manifest-sync.toml").read_text())
    with Project.find(str(clone), env=keys) as project:
        assert project.location().endpoint_url == place.endpoint
        assert project.pull().sequence == 0


def test_no_secret_is_printed_or_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command prints, `--debug` too, and whatever it leaves in the project or in the bucket."""
    token = "sessiontoken0123456789"
    shown: list[str] = []

    def run(*words: str) -> int:
        result = CliRunner().invoke(main, [*words], catch_exceptions=False)
        shown.append(result.output)
        return result.exit_code

    place.prefix = f"secret-{os.getpid()}"
    monkeypatch.chdir(place.folder)
    keys = (f"R2_ACCESS_KEY_ID={ACCESS_KEY}", f"R2_SECRET_ACCESS_KEY={SECRET_KEY}")
    place.dotenv(*keys, f"R2_ENDPOINT={place.endpoint}")
    assert run("init", f"s3://{BUCKET}/{place.prefix}", "--root", ".") == 0
    (place.folder / "a.json").write_text("a")
    for words in ("push -v", "status -v", "doctor", "pin 1", "log", "owners", "verify", "gc --apply"):
        assert run("--debug", *words.split()) == 0, shown[-1]
    written = [
        path.read_bytes() for path in place.folder.rglob("*") if path.is_file() and path.name != ".env"
    ]
    with Project.find() as project:
        for item in project.store().list(""):
            found = project.store().get(item.key, max_bytes=1 << 24)
            assert found is not None
            written.append(found.body)
            if item.key.endswith(".zst"):
                written.append(zstandard.decompress(found.body, max_output_size=1 << 20))
    # Now what goes wrong: a key that is not valid, of a sort the store says something about, one that cannot
    # be sent, and secrets in the wrong place.
    wrong = [
        (*keys, f"R2_SESSION_TOKEN={token}", f"R2_ENDPOINT={place.endpoint}"),
        (keys[0], f"R2_SECRET_ACCESS_KEY={SECRET_KEY}x", f"R2_ENDPOINT={place.endpoint}"),
        (*keys, f'R2_SESSION_TOKEN="{token}\\n{token}"', f"R2_ENDPOINT={place.endpoint}"),
        (*keys, f"R2_ENDPOINT=https://{ACCESS_KEY}:{SECRET_KEY}@127.0.0.1"),
        (f"R2_SECRET_ACCESS_KEY={SECRET_KEY}",),
        (*keys, "R2_ENDPOINT=http://127.0.0.1:1"),
    ]
    for lines in wrong:
        place.dotenv(*lines)
        assert run("--debug", "status") in (2, 5, 12)
        if "SESSION" in str(lines):
            run("doctor", "--json")
    place.dotenv()
    for bucket in (f"s3://{ACCESS_KEY}:{SECRET_KEY}@b", f":s3,secret_access_key={SECRET_KEY}:b", "lab:b"):
        place.rclone(f"[lab]\ntype = s3\n{RCLONE_KEYS}{SECRET_KEY}\n")
        os.unlink("manifest-sync.toml")
        place.configure(bucket)
        assert run("--debug", "status") == 2
        os.unlink("manifest-sync.toml")
        assert run("--debug", "init", bucket) == 2
        place.configure(bucket)
    for secret in (SECRET_KEY, token):
        assert not [text for text in shown if secret in text]
        assert not [data for data in written if secret.encode() in data]
    assert len(written) > 8


def test_what_is_typed_wins_over_the_environment_and_that_over_the_rest(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `init`, which writes what wins into the configuration; a configuration that is there stays."""
    folder = bare / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MANIFEST_SYNC_BUCKET", "../from-environment")
    monkeypatch.setenv("MANIFEST_SYNC_ROOT", "runs")
    assert CliRunner().invoke(main, ["init", "../typed"]).exit_code == 0
    with Project.find() as project:
        assert (project.config.bucket, project.config.root) == ("../typed", "runs")
    refused = CliRunner().invoke(main, ["init"])
    assert (refused.exit_code, "already names the bucket ../typed" in refused.output) == (2, True)
    with Project.find() as project:
        assert project.config.bucket == "../typed"
    (folder / "manifest-sync.toml").unlink()
    assert CliRunner().invoke(main, ["init"]).exit_code == 0
    with Project.find() as project:
        assert project.config.bucket == "../from-environment"


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
