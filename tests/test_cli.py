"""The command line: what is refused before anything is tried, in one line and with exit code 2; and what is printed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from realtime.cli.app import app
from realtime.cli.meter import WINDOW_S, Meter
from realtime.cli.viewer import Change
from realtime.cli.watch_table import cells, line
from realtime.config import Config, load
from realtime.config.text import defaults_toml, effective_toml, reference_markdown


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env=environment)


def refused(*arguments: str, **environment: str) -> str:
    """Return the one line with which a command refuses."""
    result = run(*arguments, **environment)
    assert result.exit_code == 2, result.output
    lines: list[str] = result.output.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("realtime: ")
    return lines[0].removeprefix("realtime: ")


# Configuration


@pytest.mark.parametrize("command", ["serve", "config"])
def test_bad_configuration_names_source_key_and_what_is_allowed(command: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[server]\nport = 99999")
    allowed = "an integer from 0 to 65,535 is expected, not"
    assert refused(command, "--config", str(path)) == f"bad configuration: {path}: server.port: {allowed} 99999"
    assert refused(command, "--set", "server.port=x") == f"bad configuration: --set: server.port: {allowed} 'x'"
    assert (
        refused(command, REALTIME_HTTP__PORT="-1")
        == f"bad configuration: environment variable REALTIME_HTTP__PORT: http.port: {allowed} -1"
    )
    assert "server.prot: no such key; allowed are host, port" in refused(command, "--set", "server.prot=1")
    assert "engine.kind: allowed are auto, " in refused(command, "--set", "engine.kind=fast")
    assert refused(command, "--config", str(tmp_path / "absent")).endswith("absent: No such file or directory")
    long = "user:" + "x" * 200
    assert "publish.default_access: " in refused(command, "--set", f"publish.default_access={long}")


@pytest.mark.parametrize(("flag", "name"), [("--port", "server.port"), ("--http-port", "http.port")])
@pytest.mark.parametrize("text", ["99999", "-1", "http", ""])
def test_bad_flags_are_bad_configuration(flag: str, name: str, text: str) -> None:
    assert refused("serve", flag, text).startswith(f"bad configuration: {flag}: {name}: an integer from 0 to 65,535 is expected, not ")


def test_config_prints_what_is_in_force(tmp_path: Path, engine_kind: str) -> None:
    result = run("config")
    assert result.exit_code == 0
    assert result.output == effective_toml(Config(), engine_kind)
    path = tmp_path / "my.toml"
    path.write_text('[server]\nport = 1\n[identity.tokens.s3cret]\nuser = "u"')
    result = run("config", "--config", str(path), "--set", "server.backlog=7", REALTIME_HTTP__PORT="0")
    assert "s3cret" not in result.output
    printed = tmp_path / "printed.toml"
    printed.write_text(result.output)
    assert load(printed) == load(settings=["server.port=1", "server.backlog=7", "http.port=0"])


def test_config_prints_the_committed_files() -> None:
    assert run("config", "--defaults").output == defaults_toml()
    assert run("config", "--markdown").output == reference_markdown()
    tomllib.loads(run("config", "--defaults").output)
    assert "go with nothing else" in refused("config", "--defaults", "--set", "server.port=1")
    assert "go with nothing else" in refused("config", "--defaults", "--markdown")


# Replay and watch


def test_replay_refuses_what_is_no_trace(tmp_path: Path) -> None:
    assert refused("replay", "absent.csv") == "absent.csv: no such file; recordings that come along: austin, earthquakes"
    assert "no such file" in refused("replay", str(tmp_path))
    path = tmp_path / "a.txt"
    path.touch()
    assert "a.txt: a name that ends in .csv, .geojsonl" in refused("replay", str(path))
    for speed in ("0", "-1", "nan"):
        assert refused("replay", "austin", "--speed", speed) == f"--speed {speed}: a number above 0 is expected, or inf"
    for url in ("127.0.0.1:8766", "ws://127.0.0.1:8766", "http://", "http://h:x"):
        assert "http://HOST:PORT is expected" in refused("replay", "austin", "--to", url)


def test_watch_refuses_what_is_no_view() -> None:
    for bbox in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,NaN", "[1,2,3,4]"):
        assert refused("watch", "--bbox", bbox) == f"--bbox {bbox}: west,south,east,north in degrees is expected"
    assert refused("watch", "--filter", "[").startswith("--filter: JSON is expected: ")
    assert refused("watch", "--url", "http://127.0.0.1/").startswith("url: ")


def test_a_line_for_each_change() -> None:
    point = {"id": "7", "version": 12, "kind": "bus", "geometry": {"type": "Point", "coordinates": [-97.5, 30.25, 5]}, "properties": {}}
    assert line(Change("move", point, ""), 1.26) == "move  7 12 -97.5,30.25 bus lag 1.3 ms"
    assert line(Change("leave", point, "moved"), None) == "leave 7 12 -97.5,30.25 bus moved"
    area = {"id": "a", "version": 1, "geometry": {"type": "Polygon", "coordinates": [[[1.5, 2], [3, 4], [5, 6], [1.5, 2]]]}}
    assert line(Change("enter", area, ""), 0) == "enter a 1 Polygon:1.5,2 lag 0.0 ms"


def test_nothing_from_a_publisher_commands_the_terminal() -> None:
    feature = {"id": "\u202ea\u200b", "version": 1, "kind": "\x1b[2J", "geometry": {"type": "Point", "coordinates": [0, 0]}}
    assert all(cell.isprintable() for cell in cells(feature))


def test_rates_are_of_the_last_seconds() -> None:
    meter = Meter(100.0)
    assert meter.per_s(100.0) == 0
    meter.add(10, 100.5)
    assert meter.per_s(101.0) == 10
    for tenth in range(1, 101):
        meter.add(5, 101 + tenth / 10)
    assert meter.per_s(111.0) == pytest.approx(50, rel=0.05)
    assert meter.per_s(111.0 + WINDOW_S + 1) == 0
    assert meter.total == 510


# Starting


def test_commands_import_only_what_they_run() -> None:
    """`serve` starts without the demo, `--help` without the server."""
    code = "import sys, realtime.cli.app; print(*(name for name in sys.modules if name.startswith('realtime.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("realtime.server", "realtime.gateway", "realtime.node", "realtime.engine", "realtime.client", "realtime.demo")
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_help_and_version() -> None:
    result = subprocess.run([sys.executable, "-m", "realtime", "--help"], capture_output=True, text=True, check=True)
    for command in ("serve", "replay", "watch", "config"):
        assert command in result.stdout
    assert run("--version").output.startswith("realtime")
    assert run("nonsense").exit_code == 2
