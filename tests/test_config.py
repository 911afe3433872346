"""The configuration: who wins, what every error names, and that the committed files are what the code says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.config import Config, Flag, TokenConfig, load
from realtime.config.kinds import allowed, range_words, sections
from realtime.config.text import defaults_toml, effective_toml, reference_markdown, toml
from realtime.errors import ConfigError
from tests.conftest import ROOT

SETTINGS = [setting for section in sections().values() for setting in section.settings.values()]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "my.toml"
        path.write_text(text)
        return path

    return write


def refusal(*arguments: Any, **named: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Who wins


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Config() == load(None, {}, [], [])


def test_each_source_wins_over_those_before_it(write: Any) -> None:
    path = write("[server]\nport = 1\nbacklog = 7\n[http]\nport = 11")
    environment = {"REALTIME_SERVER__PORT": "2", "REALTIME_HTTP__PORT": "12"}
    settings = ["server.port=3"]
    flags = [Flag("--port", "server.port", "4")]
    assert load(path).server.port == 1
    assert load(path, environment).server.port == 2
    assert load(path, environment, settings).server.port == 3
    config = load(path, environment, settings, flags)
    assert (config.server.port, config.server.backlog, config.http.port) == (4, 7, 12)
    assert config.server.host == Config().server.host
    assert config.limits == Config().limits


def test_of_one_setting_given_twice_the_later_wins() -> None:
    assert load(settings=["server.port=1", "server.port=2"]).server.port == 2


def test_other_variables_are_left_alone() -> None:
    assert load(environment={"REALTIME_TOKEN": "x", "PATH": "/bin", "OTHER__PORT": "1", "REALTIME": "y"}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("server.host", "0.0.0.0", "0.0.0.0"),
        ("server.host", '"::"', "::"),
        ("server.host", "1", "1"),
        ("server.port", "0", 0),
        ("server.drain_s", "2", 2.0),
        ("limits.tombstone_s", "1e3", 1000.0),
        ("http.enabled", "false", False),
        ("engine.kind", "reference", "reference"),
        ("engine.kind", "'reference'", "reference"),
        ("server.origins", "https://a.example, http://b.example:8080", ["https://a.example", "http://b.example:8080"]),
        ("server.origins", '["https://a.example"]', ["https://a.example"]),
        ("server.origins", "", []),
        ("redis.url", "rediss://a.example:6380/2", "rediss://a.example:6380/2"),
        ("redis.sentinels", "a:1, [::1]:2", ["a:1", "[::1]:2"]),
        ("redis.password_file", "credential:redis", "credential:redis"),
        ("publish.default_access", "group:staff,user:7", ["group:staff", "user:7"]),
        ("identity.tokens", '{abc = {user = "u", publish = ["bus-*"]}}', {"abc": TokenConfig("u", publish=["bus-*"])}),
    ],
)
def test_values_outside_of_a_file(name: str, text: str, expected: Any) -> None:
    section, key = name.split(".")
    for config in (
        load(settings=[f"{name}={text}"]),
        load(environment={f"REALTIME_{section}__{key}".upper(): text}),
        load(flags=[Flag("--it", name, text)]),
    ):
        value = getattr(getattr(config, section), key)
        assert value == expected
        assert type(value) is type(expected)


# What every error names


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_refuses_a_wrong_value_from_every_source(setting: Any, write: Any) -> None:
    """A table is nothing that any setting takes, except for tokens, which take no table of numbers."""
    text = "{ nonsense = 1 }"
    path = write(f"[{setting.section}]\n{setting.key} = {text}")
    variable = f"REALTIME_{setting.section}__{setting.key}".upper()
    sources = {
        str(path): {"path": path},
        f"environment variable {variable}": {"environment": {variable: text}},
        "--set": {"settings": [f"{setting.name}={text}"]},
        "--flag": {"flags": [Flag("--flag", setting.name, text)]},
    }
    takes_any_text = setting.is_text and range_words(setting.kind) == ""
    for source, arguments in sources.items():
        if takes_any_text and source != str(path):
            continue
        message = refusal(**arguments)
        assert message.startswith(f"{source}: {setting.name}: ")
        assert allowed(setting.kind) in message


@pytest.mark.parametrize("name", ["server.port", "server.drain_s", "limits.write_stall_s", "limits.views_per_s", "limits.connections"])
@pytest.mark.parametrize("text", ["-1", "1e99", "nan", "inf", "true", '"1"', "", "99999999999999999999999999", "0x", "1\nbacklog = 2"])
def test_numbers_have_ranges(name: str, text: str) -> None:
    message = refusal(settings=[f"{name}={text}"])
    assert message.startswith(f"--set: {name}: a")
    assert "is expected, not " in message


def test_what_is_allowed_is_said_in_plain_words() -> None:
    assert refusal(settings=["engine.kind=fast"]) == "--set: engine.kind: allowed are auto, native, reference, not 'fast'"
    assert refusal(settings=["identity.anonymous=yes"]).endswith("allowed are always, loopback, never, not 'yes'")
    assert refusal(settings=["server.port=65536"]) == "--set: server.port: an integer from 0 to 65,535 is expected, not 65536"
    assert "a number above 0, at most 1,000,000,000 is expected, not 0" in refusal(settings=["limits.write_stall_s=0"])
    assert refusal(settings=["http.enabled=yes"]).endswith("true or false is expected, not 'yes'")
    assert refusal(settings=["publish.default_access=everybody"]).endswith(
        "a list of texts, each public, user:ID or group:NAME, is expected, not ['everybody']"
    )
    assert "each http(s)://host[:port]" in refusal(settings=["server.origins=maps.example"])


def test_unknown_names_are_errors_wherever_they_are(write: Any) -> None:
    path = write("[sever]\nport = 1")
    assert refusal(path) == f"{path}: sever: no such section; allowed are {', '.join(sections())}"
    path = write("[server]\nprot = 1")
    assert refusal(path) == f"{path}: server.prot: no such key; allowed are {', '.join(sections()['server'].settings)}"
    assert "server.prot: no such key" in refusal(environment={"REALTIME_SERVER__PROT": "1"})
    assert "REALTIME_SEVER__PORT: sever: no such section" in refusal(environment={"REALTIME_SEVER__PORT": "1"})
    assert "server.port__x: no such key" in refusal(environment={"REALTIME_SERVER__PORT__X": "1"})
    assert "server.prot: no such key" in refusal(settings=["server.prot=1"])
    for text in ("server", "server.port", "port=1", "=1", ""):
        assert "section.key=value is expected" in refusal(settings=[text])


def test_files_that_are_none(write: Any, tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.toml") == f"{tmp_path / 'absent.toml'}: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"
    assert "my.toml: not TOML: " in refusal(write("[server\nport = 1"))
    assert "port: a section is expected" in refusal(write("port = 1"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(binary)


def test_no_error_shows_a_token(write: Any) -> None:
    for tokens in (
        '{s3cret = {name = "u"}}',
        "{s3cret = {user = 1}}",
        '{s3cret = "s3cret"}',
        '["s3cret"]',
        "s3cret",
        '{s3cret = {user = ""}}',
    ):
        assert "s3cret" not in refusal(settings=[f"identity.tokens={tokens}"])
        assert "s3cret" not in refusal(environment={"REALTIME_IDENTITY__TOKENS": tokens})
    assert "s3cret" not in refusal(write('[identity.tokens.s3cret]\nuser = "u"\ngroup = "g"'))


def test_no_error_shows_a_password_that_was_put_into_an_address(write: Any) -> None:
    for name, text in (
        ("redis.url", "redis://user:s3cret@a"),
        ("redis.url", "redis://a?password=s3cret"),
        ("redis.url", "{ s3cret = 1 }"),
        ("redis.sentinels", "a,s3cret@b"),
        ("redis.nodes", "s3cret@b:1"),
    ):
        section, key = name.split(".")
        assert "s3cret" not in refusal(settings=[f"{name}={text}"])
        assert "s3cret" not in refusal(environment={f"REALTIME_{section}__{key}".upper(): text})
    message = refusal(write('[redis]\nurl = "redis://user:s3cret@a"'))
    assert "s3cret" not in message
    assert message.endswith("redis.url: redis://host:port/db, rediss:// or unix:///path?db=N, without user and password, is expected")


# As text


def test_the_committed_files_are_what_the_code_says() -> None:
    assert (ROOT / "config.toml").read_text() == defaults_toml(), "write it anew: realtime config --defaults > config.toml"
    page = "realtime config --markdown > docs/configuration.md"
    assert (ROOT / "docs" / "configuration.md").read_text() == reference_markdown(), f"write it anew: {page}"


def test_the_default_file_is_the_defaults_with_a_reason_for_each(write: Any) -> None:
    text = defaults_toml()
    assert load(write(text)) == Config()
    assert max(map(len, text.splitlines())) <= 140
    lines = text.splitlines()
    for setting in SETTINGS:
        assert f"# {setting.why}" in lines
        assert setting.why.endswith(".")


def test_the_reference_has_a_row_for_each_setting() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(SETTINGS)
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_what_is_printed_reads_back_as_the_same(write: Any) -> None:
    config = load(
        settings=[
            "server.origins=https://a.example",
            "limits.flush_interval_ms=12.5",
            "http.enabled=false",
            'server.host="a b\\"c\\u007f\\n😀"',
            "publish.default_access=user:é",
        ]
    )
    text = effective_toml(config, "reference")
    assert text.startswith("# engine: reference\n")
    assert load(write(text)) == config
    assert "flush_interval_ms = 12.5  # default: 50.0" in text


def test_tokens_are_left_out_and_nothing_stands_in_for_them(write: Any) -> None:
    config = load(settings=['identity.tokens={s3cret = {user = "u"}, other = {user = "v"}}', "identity.anonymous=never"])
    text = effective_toml(config, "reference")
    assert "s3cret" not in text
    assert "# tokens: 2, not shown" in text
    again = load(write(text))
    assert again.identity.tokens == {}
    assert again.identity.anonymous == "never"


texts = st.text(st.characters(codec="utf-8"))


@given(
    st.recursive(
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    )
)
def test_any_value_written_as_toml_reads_back(value: Any) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value


def test_sections_are_frozen_and_refuse_what_they_do_not_know() -> None:
    for field in msgspec.structs.fields(Config):
        assert field.type.__struct_config__.frozen
        assert field.type.__struct_config__.forbid_unknown_fields
