"""From the five sources to one `Config`.

Law: precedence is defaults, file, environment (`REALTIME_SECTION__KEY`), `--set section.key=value`, flags; a later
source replaces a value whole. Whatever is wrong names its source, its key and what is allowed; nothing is ignored,
as a setting with a typo in it is worse than none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realtime.config.kinds import Setting, convert, parse, sections
from realtime.config.settings import Config
from realtime.errors import ConfigError

ENVIRONMENT_PREFIX = "REALTIME_"
ENVIRONMENT_DIVIDER = "__"  # between section and key; a variable without it is somebody else's


class Flag(NamedTuple):
    """A command line flag that sets one setting."""

    flag: str  # --port
    name: str  # server.port
    text: str


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    settings: Iterable[str] = (),
    flags: Iterable[Flag] = (),
) -> Config:
    """Return the configuration. Raises `ConfigError` with the source, the key and what is allowed."""
    values: dict[str, dict[str, Any]] = {}
    for source, setting, value in _given(path, environment or {}, settings, flags):
        try:
            values.setdefault(setting.section, {})[setting.key] = convert(setting, value)
        except ValueError as error:
            raise ConfigError(f"{source}: {setting.name}: {error}") from None
    config = Config()
    for section, given in values.items():
        config = msgspec.structs.replace(config, **{section: msgspec.structs.replace(getattr(config, section), **given)})
    return config


def _given(
    path: Path | None, environment: Mapping[str, str], settings: Iterable[str], flags: Iterable[Flag]
) -> Iterator[tuple[str, Setting, Any]]:
    """Yield what the sources set, the weakest first: source, setting, value."""
    if path is not None:
        yield from _of_file(path)
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_DIVIDER in variable:
            source = f"environment variable {variable}"
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition(ENVIRONMENT_DIVIDER)
            setting = _find(source, section, key)
            yield source, setting, parse(setting, text)
    for given in settings:
        place, equals, text = given.partition("=")
        section, dot, key = place.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {place}: section.key=value is expected")
        setting = _find("--set", section, key)
        yield "--set", setting, parse(setting, text.strip())
    for flag in flags:
        setting = _find(flag.flag, *flag.name.split("."))
        yield flag.flag, setting, parse(setting, flag.text)


def _of_file(path: Path) -> Iterator[tuple[str, Setting, Any]]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8, which TOML is") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for section, values in table.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section}: a section is expected; allowed are {', '.join(sections())}")
        for key, value in values.items():
            yield str(path), _find(str(path), section, key), value


def _find(source: str, section: str, key: str) -> Setting:
    found = sections().get(section)
    if found is None:
        raise ConfigError(f"{source}: {section}: no such section; allowed are {', '.join(sections())}")
    setting = found.settings.get(key)
    if setting is None:
        raise ConfigError(f"{source}: {section}.{key}: no such key; allowed are {', '.join(found.settings)}")
    return setting
