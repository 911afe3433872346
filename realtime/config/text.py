"""The configuration as text: the default file, the effective one, the reference page.

Law: what is written here as TOML reads back as the same configuration, except for secrets, which are left out: a
placeholder in their place would itself be a token that lets somebody in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from realtime.config.kinds import SECRET, Section, range_words, sections, type_word
from realtime.config.settings import Config

_DEFAULTS_HEAD = """\
# Every setting of realtime with its default and its reason, as `realtime config --defaults` prints them. A file for
# `--config` needs only what it changes. Later wins: the defaults, the file, REALTIME_SECTION__KEY in the environment,
# `--set section.key=value`, flags. docs/configuration.md says what is allowed.
"""

_REFERENCE_HEAD = """\
# Configuration

Written by `realtime config --markdown` from the settings in `realtime/config/settings.py`; a test holds the two equal.

A setting has a section and a key. Where several sources set it, the later of these wins:

1. the default, as below
2. the file: `realtime serve --config my.toml`. `config.toml` has every setting; a file needs only what it changes.
3. the environment: `REALTIME_SERVER__PORT=9000`, that is `REALTIME_`, the section, two underscores, the key
4. the command line: `--set server.port=9000`, any number of times
5. the flags of `realtime serve`: `--host`, `--port`, `--http-port`, `--workers`

Outside of a file a text needs no quotes and a list of texts no brackets: `--set server.origins=https://a.example,https://b.example`.
Any other value is written as in TOML. A list or a table is replaced whole.

Whatever is wrong, unknown keys included, ends the command with exit code 2 and one line that names the source, the key
and what is allowed. `realtime config` prints what is in force and which engine runs.
"""


def defaults_toml() -> str:
    """Return the file of all defaults, each with its reason. It is the repository's config.toml."""
    return "\n".join([_DEFAULTS_HEAD, *(line for section in sections().values() for line in _default_lines(section))])


def _default_lines(section: Section) -> Iterator[str]:
    yield f"# {section.why}"
    yield f"[{section.name}]"
    for setting in section.settings.values():
        yield f"# {setting.why}"
        yield f"{setting.key} = {toml(setting.default)}"
    yield ""


def effective_toml(config: Config, engine: str) -> str:
    """Return a configuration as a file for `--config`; `engine` is which one runs. Tokens are left out."""
    lines = [f"# engine: {engine}", ""]
    values = msgspec.to_builtins(config)
    for section in sections().values():
        lines.append(f"[{section.name}]")
        for setting in section.settings.values():
            value = values[section.name][setting.key]
            if setting.name == SECRET and value:
                lines.append(f"# {setting.key}: {len(value)}, not shown")
            else:
                default = "" if value == setting.default else f"  # default: {toml(setting.default)}"
                lines.append(f"{setting.key} = {toml(value)}{default}")
        lines.append("")
    return "\n".join(lines)


def reference_markdown() -> str:
    """Return the page of all settings. It is the repository's docs/configuration.md."""
    return "\n".join([_REFERENCE_HEAD, *(line for section in sections().values() for line in _table(section))])


def _table(section: Section) -> Iterator[str]:
    yield f"## {section.name}\n"
    yield f"{section.why}\n"
    yield "| key | type | default | range | why |"
    yield "|---|---|---|---|---|"
    for setting in section.settings.values():
        words = (range_words(setting.kind) or "any").replace("|", "\\|")
        yield f"| `{setting.key}` | {type_word(setting.kind)} | `{toml(setting.default)}` | {words} | {setting.why} |"
    yield ""


def toml(value: Any) -> str:
    """Return a value as TOML has it: a boolean, number, text, list or table of those."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # What JSON escapes, TOML escapes alike; DEL is the one character that only TOML refuses.
            return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
        case _:
            return repr(value)
