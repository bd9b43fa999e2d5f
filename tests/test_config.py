"""The configuration file, the forms of a bucket, and where credentials come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifest_sync.config import (
    CONFIG_NAME,
    Config,
    Environment,
    Location,
    find_project,
    load_config,
    load_environment,
    parse_config,
    parse_dotenv,
    parse_location,
    render_config,
)
from manifest_sync.errors import UsageError

R2 = {
    "R2_ACCESS_KEY_ID": "id",
    "R2_SECRET_ACCESS_KEY": "hidden",
    "R2_ENDPOINT": "https://acc.r2.cloudflarestorage.com",
}
RCLONE = """
[r2]
type = s3
provider = Cloudflare
access_key_id = key
secret_access_key = hidden%1
endpoint = https://acc.r2.cloudflarestorage.com
region = auto

[chain]
type = s3
env_auth = true
profile = work
region = eu-west-1

[disk]
type = local

[bare]
type = s3
"""


def locate(text: str, **options: object) -> Location:
    return parse_location(text, base="/project", **options)  # type: ignore[arg-type]


# --- the file


def test_rendered_file_round_trips(tmp_path: Path) -> None:
    text = render_config(bucket="s3://b/p", root="data", endpoint_url="https://h.example/", region="auto")
    (tmp_path / CONFIG_NAME).write_text(text)
    config = load_config(str(tmp_path))
    assert (config.bucket, config.root, config.region) == ("s3://b/p", "data", "auto")
    assert config.endpoint_url == "https://h.example"
    assert config.project_dir == str(tmp_path)
    assert "neither  **/inference/raw/" in config.rules
    assert config.groups == {"loras": ("**/finetune/", "**/lora/"), "trajectories": ("*_trajectories.pt",)}
    assert (config.push, config.pull, config.symlinks) == ("new", "new", "skip")


@pytest.mark.parametrize("bucket", ['/odd "dir"', "/back\\slash", "/tab\tü\x7f", "/{brace}"])
def test_rendered_file_quotes(bucket: str) -> None:
    assert parse_config(render_config(bucket=bucket), "x").bucket == bucket


def test_render_refuses_what_reading_would() -> None:
    with pytest.raises(UsageError, match="root"):
        render_config(bucket="s3://b", root="/etc")


def test_examples_are_valid() -> None:
    examples = list((Path(__file__).parent.parent / "examples").glob("*/" + CONFIG_NAME))
    assert examples
    for path in examples:
        assert load_config(str(path.parent)).rules


def test_defaults() -> None:
    assert parse_config('bucket = "b"', "/p/x.toml") == Config("/p", "b")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["bucket is missing"]),
        ("bucket = x", ["not valid TOML", "line 1"]),
        ("bucket = 3", ["bucket is 3", "a string"]),
        ('bucket = " "', ['bucket is " "', "s3://"]),
        ('buket = "b"', ["'buket'", "'bucket'"]),
        ('bucket = "b"\nsecret_key = "x"', ["'secret_key'", "credentials do not belong"]),
        ('bucket = "b"\nroot = "../x"', ['root is "../x"', "inside the project"]),
        ('bucket = "b"\nroot = "/x"', ['root is "/x"']),
        ('bucket = "b"\nroot = ".manifest-sync"', ["root is"]),
        ('bucket = "b"\nendpoint_url = "r2.example"', ["endpoint_url", "'r2.example'", "https"]),
        ('bucket = "b"\nendpoint_url = "https://u:pw@h"', ["endpoint_url", "user name or password"]),
        ('bucket = "b"\nsingle_writer = true', ["no key 'single_writer'"]),  # the head says it
        ('bucket = "b"\ndefaults = 1', ["defaults is 1", "[defaults]"]),
        ('bucket = "b"\n[defaults]\npsh = "new"', ["'defaults.psh'", "'push'"]),
        ('bucket = "b"\n[defaults]\npush = "all"', ['defaults.push is "all"', '"new", "copy", "full"']),
        ('bucket = "b"\n[defaults]\ntrust_ctime = "yes"', ['defaults.trust_ctime is "yes"', "true or false"]),
        ('bucket = "b"\n[defaults]\nsymlinks = true', ["defaults.symlinks is true", '"keep"']),
        ('bucket = "b"\n[ownership]\nrules = "git *"', ["ownership.rules", "a list"]),
        ('bucket = "b"\n[ownership]\nrules = [1]', ["ownership.rules[0] is 1"]),
        (
            'bucket = "b"\n[ownership]\nrules = ["git a", "me *"]',
            ["ownership.rules[1]", '"me *"', "git, bucket, neither"],
        ),
        ('bucket = "b"\n[ownership]\nrules = ["git [a"]', ["ownership.rules[0]", "gitignore syntax"]),
        ('bucket = "b"\n[groups]\nbig = "*"', ["groups.big", "a list"]),
        ('bucket = "b"\n[groups]\nbig = ["!x"]', ["groups.big[0]", '"!x"']),
        ('bucket = "b"\n[groups]\n"a,b" = []', ["a,b", "comma"]),
    ],
)
def test_wrong_files_are_named(text: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(text, "/p/manifest-sync.toml")
    said = f"{caught.value.message} | {caught.value.hint}"
    assert said.startswith("/p/manifest-sync.toml")
    for part in parts:
        assert part in said
    assert "pw" not in said


def test_file_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_config(str(tmp_path))
    (tmp_path / CONFIG_NAME).write_bytes(b"bucket = '\xff'")
    with pytest.raises(UsageError, match="UTF-8"):
        load_config(str(tmp_path))


def test_project_is_found_from_below(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with pytest.raises(UsageError, match=CONFIG_NAME):
        find_project(str(below))
    (tmp_path / CONFIG_NAME).write_text("")
    assert find_project(str(below)) == str(tmp_path)
    assert find_project(str(tmp_path)) == str(tmp_path)


# --- where


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("s3://bucket/a/b/", Location("s3", "bucket", "a/b", path_style=False)),
        ("s3://bucket", Location("s3", "bucket", path_style=False)),
        ("file:///srv/a%20b/", Location("file", path="/srv/a b")),
        ("/srv/x/../y", Location("file", path="/srv/y")),
        ("../store", Location("file", path="/store")),
        ("store", Location("file", path="/project/store")),
        ("memory://one", Location("memory", path="one")),
    ],
)
def test_forms(text: str, location: Location) -> None:
    assert locate(text) == location


@pytest.mark.parametrize(
    "text", ["", "s3://", "s3:///x", "s3://b/../c", "s3://b/a//c", "gs://b", "file://host/x", "no:b"]
)
def test_wrong_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        locate(text)
    assert caught.value.hint


def test_text_of_a_location_has_no_secret() -> None:
    location = locate("s3://b/p", environment=Environment(R2))
    assert "hidden" not in repr(location) + str(location) + repr(Environment(R2, RCLONE))
    assert str(location) == "s3://b/p"
    assert str(Location("file", path="/x")) == "file:///x"


# --- credentials


def test_r2_from_the_environment() -> None:
    location = locate("s3://b/p", environment=Environment(R2))
    assert (location.access_key, location.secret_key, location.region) == ("id", "hidden", "auto")
    assert location.endpoint_url == R2["R2_ENDPOINT"]
    assert location.path_style


def test_r2_endpoint_with_the_bucket_behind_it() -> None:
    variables = {**R2, "R2_ENDPOINT": R2["R2_ENDPOINT"] + "/b/"}
    assert locate("s3://b/p", environment=Environment(variables)).endpoint_url == R2["R2_ENDPOINT"]


def test_configured_endpoint_wins_and_keys_of_another_host_stay_home() -> None:
    same = locate("s3://b", environment=Environment(R2), endpoint_url=R2["R2_ENDPOINT"] + "/")
    assert (same.access_key, same.endpoint_url) == ("id", R2["R2_ENDPOINT"])
    other = locate("s3://b", environment=Environment(R2), endpoint_url="http://127.0.0.1:8333")
    assert (other.access_key, other.secret_key) == ("", "")
    assert other.endpoint_url == "http://127.0.0.1:8333"
    del (without := dict(R2))["R2_ENDPOINT"]
    assert locate("s3://b", environment=Environment(without), endpoint_url="http://h").access_key == "id"


def test_half_a_pair_is_an_error() -> None:
    with pytest.raises(UsageError, match="R2_SECRET_ACCESS_KEY"):
        locate("s3://b", environment=Environment({"R2_ACCESS_KEY_ID": "x"}))


def test_rclone_remotes() -> None:
    environment = Environment(R2, RCLONE, "/home/me/rclone.conf")
    location = locate("r2:b/p", environment=environment)
    assert (location.bucket, location.prefix, location.access_key) == ("b", "p", "key")
    assert (location.secret_key, location.region) == ("hidden%1", "auto")
    chain = locate("chain:b", environment=environment, region="us-east-1")
    assert (chain.access_key, chain.profile, chain.region) == ("", "work", "us-east-1")
    for text, said in (
        ("disk:b", "'local'"),
        ("bare:b", "access_key_id"),
        ("none:b", "bare, chain, disk, r2"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            locate(text, environment=environment)
        assert "/home/me/rclone.conf" in caught.value.message
    with pytest.raises(UsageError, match="cannot be read"):
        locate("r2:b", environment=Environment({}, "[r2]\nhidden"))


def test_remotes_that_cannot_be_used_say_why() -> None:
    conf = """\
[nick]
type = alias
remote = r2:b
[locked]
type = crypt
[other]
type = s3
env_auth = true
shared_credentials_file = /home/me/keys
[both]
type = s3
env_auth = true
profile = work
access_key_id = key
secret_access_key = hidden
session_token = token
"""
    for text, said in (
        ("nick:b", "the s3 remote that its `remote` names"),
        ("locked:b", "encrypts"),
        ("other:b", "AWS_SHARED_CREDENTIALS_FILE"),
    ):
        with pytest.raises(UsageError) as caught:
            locate(text, environment=Environment({}, conf))
        assert said in caught.value.hint
    both = locate("both:b", environment=Environment({}, conf))
    found = (both.access_key, both.secret_key, both.session_token, both.profile)
    assert found == ("key", "hidden", "token", ""), "as in rclone, keys that are there win"
    encrypted = "# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nsecret==\n"
    with pytest.raises(UsageError, match="is encrypted") as caught:
        locate("r2:b", environment=Environment({}, encrypted, "/home/me/rclone.conf"))
    assert "rclone config encryption remove" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "s3://KEY:hidden@bucket/x",
        "https://KEY:hidden@host/bucket",
        ":s3,access_key_id=KEY,secret_access_key=hidden:bucket/x",
        "r2,secret_access_key=hidden:bucket/x",
    ],
)
def test_a_secret_in_the_name_of_a_bucket_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        locate(text, environment=Environment({}, RCLONE))
    assert "hidden" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("url", ["https://KEY:hidden@host", "KEY:hidden@host/b", "s3://KEY:hidden@h"])
def test_a_secret_in_an_endpoint_is_refused_and_not_shown(url: str) -> None:
    for variables, endpoint in (({}, url), ({**R2, "R2_ENDPOINT": url}, "")):
        with pytest.raises(UsageError, match="at h") as caught:
            locate("s3://b", environment=Environment(variables), endpoint_url=endpoint)
        assert "hidden" not in caught.value.message + caught.value.hint


def test_a_temporary_r2_key_and_what_a_shell_leaves_at_the_ends() -> None:
    variables = {
        "R2_ACCESS_KEY_ID": "id\r",
        "R2_SECRET_ACCESS_KEY": " hidden\n",
        "R2_SESSION_TOKEN": "token\n",
        "R2_ENDPOINT": "account.r2.cloudflarestorage.com ",
    }
    found = locate("s3://b", environment=Environment(variables))
    assert (found.access_key, found.secret_key, found.session_token) == ("id", "hidden", "token")
    assert found.endpoint_url == "https://account.r2.cloudflarestorage.com"
    assert "token" not in repr(found)
    other = locate("s3://b", environment=Environment(variables), endpoint_url="http://127.0.0.1:8333")
    assert (other.access_key, other.session_token) == ("", "")


def test_an_unreadable_rclone_conf_matters_only_to_who_names_a_remote(tmp_path: Path) -> None:
    # As with `sudo -u`, which leaves HOME another user's: here the folder is one that leads nowhere.
    (tmp_path / "rclone").symlink_to("rclone")
    environment = load_environment(str(tmp_path), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert locate(str(tmp_path / "bucket"), environment=environment).scheme == "file"
    with pytest.raises(UsageError, match="cannot be read: Too many levels") as caught:
        locate("r2:b", environment=environment)
    assert "make it readable" in caught.value.hint


def test_dotenv() -> None:
    text = "\n".join(
        [
            "# comment",
            "A=plain # comment",
            "export B='single # quoted' # x",
            'C="a \\"b\\"\\n" # x',
            "D=",
            "E = spaced ",
            "F=a#b",
            "not an assignment",
            "G='open",
            'H="it\'s"',
            "I=#none",
        ]
    )
    assert parse_dotenv(text) == {
        "A": "plain",
        "B": "single # quoted",
        "C": 'a "b"\n',
        "D": "",
        "E": "spaced",
        "F": "a#b",
        "G": "'open",
        "H": "it's",
        "I": "",
    }


def test_environment_is_read_from_files_and_variables_win(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\ufeffR2_ACCESS_KEY_ID=file\r\nOTHER=1\r\n", encoding="utf-8")
    (tmp_path / ".config" / "rclone").mkdir(parents=True)
    (tmp_path / ".config" / "rclone" / "rclone.conf").write_text(RCLONE)
    found = load_environment(str(tmp_path), {"HOME": str(tmp_path), "R2_ACCESS_KEY_ID": "env"})
    assert found.variables["R2_ACCESS_KEY_ID"] == "env"
    assert found.variables["OTHER"] == "1"
    assert found.rclone_conf == RCLONE
    elsewhere = load_environment(str(tmp_path / "x"), {"RCLONE_CONFIG": str(tmp_path / "none")})
    assert elsewhere.rclone_conf is None


@pytest.mark.parametrize(
    "text",
    ["bucket = " + "9" * 5000, "bucket = " + "[" * 5000, f'bucket = "b"\n[trash]\nmax_size = "{"9" * 400}"'],
    ids=["digits", "nesting", "size"],
)
def test_what_overwhelms_the_parser_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_config(text, "/project/manifest-sync.toml")


def test_an_odd_file_url_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a folder"):
        parse_location("file://[x", base="/project")
